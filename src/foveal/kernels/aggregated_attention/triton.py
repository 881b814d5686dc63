"""Aggregated attention in Triton: what its kernels share, and the forward pass.

A program has BM queries of one head and all their keys. Products of queries with pooled keys are
taken of the tensors as they are, which tensor cores do exactly in low precision; norms, query
embedding, scale and bias come after, in float32: rounding a scaled query instead would be felt in
the softmax.
"""

from collections.abc import Sequence
from math import gcd, isqrt, prod
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveal.kernels import launch
from foveal.kernels.tuning import Blocks, blocks


@triton.jit
def load_tile(
    start, image, pixels, head, pixel, real, step,
    D: tl.constexpr, DP: tl.constexpr, ALIGN: tl.constexpr,
):  # fmt: skip
    """(pixel, channel) of one head; rows of pixels are step · ALIGN apart, 0 where not real."""
    channel = tl.arange(0, DP)[None, :]
    start += image * pixels * step * ALIGN + head * D
    at = pixel[:, None] * step * ALIGN + channel
    return tl.load(start + at, mask=real[:, None] & (channel < D), other=0.0)


@triton.jit
def inverse_norm(x):
    """1 / max(‖x‖, 1e-12) of every row."""
    return 1.0 / tl.maximum(tl.sqrt(tl.sum(x * x, 1)), 1e-12)


@triton.jit
def normalize_backward(gradient, x, inverse):
    """The gradient of x from that of x/‖x‖."""
    unit = x * inverse[:, None]
    # Below its least value the norm does not move.
    moves = tl.sum(x * x, 1) >= 1e-24
    along = tl.where(moves, tl.sum(unit * gradient, 1), 0.0)
    return (gradient - along[:, None] * unit) * inverse[:, None]


@triton.jit
def window_cell(pixel, real, height, width, dy, dx):
    """The pixel dy below and dx to the right, and whether the map has it."""
    y = pixel // width + dy
    x = pixel % width + dx
    inside = real & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    return y * width + x, inside


@triton.jit
def window_weight(unit, e, k, scaling, local_bias, head, cell, inside, top, K: tl.constexpr):
    """(q̂ + QE)·k̂ of a window cell, and e to its logit less `top`."""
    k = k.to(tl.float32)
    cosine = tl.sum((unit + e[None, :]) * k, 1) * inverse_norm(k)
    logit = cosine * scaling + tl.load(local_bias + head * K * K + cell).to(tl.float32)
    # The very steps of the forward pass: the sum of weights is from there.
    return cosine, tl.where(inside, tl.exp(logit - top), 0.0)


@triton.jit
def log_seen(pixel, height, width, cells, K: tl.constexpr):
    """log N: of the window's cells inside the map and all pooled cells."""
    y = pixel // width
    x = pixel % width
    high = tl.minimum(y + K // 2, height - 1) - tl.maximum(y - K // 2, 0) + 1
    wide = tl.minimum(x + K // 2, width - 1) - tl.maximum(x - K // 2, 0) + 1
    # Pixels beyond the map would have none.
    return tl.log(tl.maximum(high * wide + cells, 1).to(tl.float32))


@triton.jit
def load_bias(
    bias, rows, columns, head, heads, first, pixel, cell, real, width, pixels, cells, cells_wide,
    table_width, TABLE: tl.constexpr,
):  # fmt: skip
    """B of queries from pixel `first` on by pooled cells, from the dense tensor or the table."""
    if TABLE:
        cells_high = cells // cells_wide
        y = (pixel // width)[:, None] * cells_high + (cell // cells_wide)[None, :]
        x = (pixel % width)[:, None] * cells_wide + (cell % cells_wide)[None, :]
        row = tl.load(rows + y, mask=real, other=0)
        column = tl.load(columns + x, mask=real, other=0)
        at = (row * table_width + column) * heads + head
    else:
        bias += (head.to(tl.int64) * pixels + first) * cells
        at = (pixel - first)[:, None] * cells + cell[None, :]
    return tl.load(bias + at, mask=real, other=0.0).to(tl.float32)


@triton.jit
def pooled_logits(
    q, inverse_q, scaling, embedding, pooled_key, bias, rows, columns, image, head, heads, first,
    pixel, here, start, width, pixels, cells, cells_wide, table_width, pk_step,
    TABLE: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, ALIGN: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Of the pooled cells from `start`: keys, their inverse norms, (q̂ + QE)·k̂ and the logits."""
    cell = start + tl.arange(0, BN)
    exists = cell < cells
    k = load_tile(pooled_key, image, cells, head, cell, exists, pk_step, D, DP, ALIGN)
    wide = k.to(tl.float32)
    inverse_k = inverse_norm(wide)
    embedded = tl.sum(wide * embedding[None, :], 1)
    product = tl.dot(q, tl.trans(k), input_precision="ieee")
    cosine = (product * inverse_q[:, None] + embedded[None, :]) * inverse_k[None, :]
    real = here[:, None] & exists[None, :]
    b = load_bias(
        bias, rows, columns, head, heads, first, pixel, cell, real, width, pixels, cells,
        cells_wide, table_width, TABLE,
    )  # fmt: skip
    logits = tl.where(exists[None, :], cosine * scaling[:, None] + b, float("-inf"))
    return k, inverse_k, cosine, logits


@triton.jit
def forward_kernel(
    query, key, value, pooled_key, pooled_value, embedding, scale, local_bias, tokens, token_bias,
    bias, rows, columns, out, norms,
    heads, height, width, cells, cells_wide, table_width, q_step, k_step, v_step, pk_step, pv_step,
    TABLE: tl.constexpr, ALIGN: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The window's logits first, the pooled ones block by block, the window's values last."""
    head = tl.program_id(0)
    image = tl.program_id(2).to(tl.int64)
    pixels = height * width
    first = tl.program_id(1) * BM
    pixel = first + tl.arange(0, BM)
    here = pixel < pixels
    channel = tl.arange(0, DP)
    q = load_tile(query, image, pixels, head, pixel, here, q_step, D, DP, ALIGN)
    unit = q.to(tl.float32)
    inverse_q = inverse_norm(unit)
    unit = unit * inverse_q[:, None]
    e = tl.load(embedding + head * D + channel, mask=channel < D, other=0.0).to(tl.float32)
    scaling = tl.load(scale + head).to(tl.float32) * log_seen(pixel, height, width, cells, K)

    local = ()
    top = tl.full((BM,), float("-inf"), tl.float32)
    for cell in tl.static_range(K * K):
        near, inside = window_cell(
            pixel, here, height, width, cell // K - K // 2, cell % K - K // 2
        )
        k = load_tile(key, image, pixels, head, near, inside, k_step, D, DP, ALIGN).to(tl.float32)
        cosine = tl.sum((unit + e[None, :]) * k, 1) * inverse_norm(k)
        logit = cosine * scaling + tl.load(local_bias + head * K * K + cell).to(tl.float32)
        logit = tl.where(inside, logit, float("-inf"))
        top = tl.maximum(top, logit)
        local = local + (logit,)  # noqa: RUF005 - Triton unpacks nothing
    # A pixel beyond the map has no window.
    top = tl.where(here, top, 0.0)
    total = tl.zeros((BM,), tl.float32)
    for cell in tl.static_range(K * K):
        total += tl.exp(local[cell] - top)

    mixed = tl.zeros((BM, DP), tl.float32)
    for start in range(0, cells, BN):
        _, _, _, logits = pooled_logits(
            q, inverse_q, scaling, e, pooled_key, bias, rows, columns, image, head, heads, first,
            pixel, here, start, width, pixels, cells, cells_wide, table_width, pk_step,
            TABLE, D, DP, ALIGN, BN,
        )  # fmt: skip
        higher = tl.maximum(top, tl.max(logits, 1))
        shrunk = tl.exp(top - higher)
        p = tl.exp(logits - higher[:, None])
        total = total * shrunk + tl.sum(p, 1)
        at = start + tl.arange(0, BN)
        values = load_tile(pooled_value, image, cells, head, at, at < cells, pv_step, D, DP, ALIGN)
        mixed = tl.dot(p.to(values.dtype), values, mixed * shrunk[:, None], input_precision="ieee")
        top = higher

    mixed = mixed / total[:, None]
    for cell in tl.static_range(K * K):
        near, inside = window_cell(
            pixel, here, height, width, cell // K - K // 2, cell % K - K // 2
        )
        v = load_tile(value, image, pixels, head, near, inside, v_step, D, DP, ALIGN).to(tl.float32)
        t = tl.load(tokens + (head * D + channel) * K * K + cell, mask=channel < D, other=0.0)
        positional = tl.sum(unit * t.to(tl.float32)[None, :], 1)
        positional += tl.load(token_bias + head * K * K + cell).to(tl.float32)
        weight = tl.exp(local[cell] - top) / total + positional
        mixed += weight[:, None] * v
    at = (image * pixels + pixel[:, None]) * heads * D + head * D + channel[None, :]
    tl.store(out + at, mixed, mask=here[:, None] & (channel[None, :] < D))
    row = (image * heads + head) * 2 * pixels
    tl.store(norms + row + pixel, top, mask=here)
    tl.store(norms + row + pixels + pixel, total, mask=here)


@triton.jit
def load_norms(norms, image, head, heads, pixel, here, pixels):
    """The softmax's highest logit and inverse sum; without a place in the map all weights are 0."""
    norms += (image * heads + head) * 2 * pixels
    top = tl.load(norms + pixel, mask=here, other=float("inf"))
    return top, 1.0 / tl.load(norms + pixels + pixel, mask=here, other=1.0)


class Inputs(NamedTuple):
    """The operator's tensors, ready for kernels.

    Attributes:
        query, key, value, pooled_key, pooled_value: (b, rows, columns, heads, channels), each
            pixel's channels together and pixels at one distance.
        embedding, scale, local_bias, tokens, token_bias: the learned terms, contiguous.
        bias: (heads, h, w, hp, wp), or the table (r, c, heads) that `rows` and `columns` index.
        rows, columns: (h, hp) and (w, wp), or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    pooled_key: Tensor
    pooled_value: Tensor
    embedding: Tensor
    scale: Tensor
    local_bias: Tensor
    tokens: Tensor
    token_bias: Tensor
    bias: Tensor
    rows: Tensor | None
    columns: Tensor | None

    @classmethod
    def of(cls, *tensors: Tensor | None) -> "Inputs":
        """The operator's arguments; what kernels cannot read as it lies in memory is copied."""
        given = cls(*tensors)  # pyright: ignore[reportArgumentType]
        maps = [as_rows(x) for x in given[:5]]
        return cls(*maps, *(None if x is None else x.contiguous() for x in given[5:]))  # pyright: ignore[reportArgumentType]

    def numbers(self) -> tuple[int, ...]:
        """Sizes and steps, in the kernels' order."""
        _, height, width, heads, _ = self.query.shape
        cells_wide = self.pooled_key.shape[2]
        cells = self.pooled_key.shape[1] * cells_wide
        table_width = self.bias.shape[1] if self.rows is not None else 0
        steps = (step_of(x) // self.alignment() for x in self[:5])
        return (heads, height, width, cells, cells_wide, table_width, *steps)

    def constants(self) -> dict[str, int]:
        """Compile-time arguments that all kernels have."""
        channels = self.query.shape[-1]
        return {
            "TABLE": int(self.rows is not None),
            "ALIGN": self.alignment(),
            "K": isqrt(self.local_bias.shape[-1]),
            "D": channels,
            "DP": max(launch.power_of_two(channels), 16),
        }

    def alignment(self) -> int:
        """Of all steps; told apart from them, it lets the compiler load 16 bytes at a time."""
        return gcd(8, *(step_of(x) for x in self[:5]))

    def tiles(self, kernel: str) -> Blocks:
        """The kernel's blocks, smaller where heads are wide or pooled cells few."""
        chosen = blocks(f"aggregated_attention.{kernel}")
        cells = prod(self.pooled_key.shape[1:3])
        sizes = dict(chosen.sizes)
        sizes["BM"] = max(sizes["BM"] * 32 // max(self.constants()["DP"], 32), 16)
        if "BN" in sizes:
            sizes["BN"] = min(sizes["BN"], max(launch.power_of_two(cells), 16))
        return chosen._replace(sizes=sizes)


def step_of(x: Tensor) -> int:
    """How far pixels are from each other, if all are at one distance."""
    strides = [stride for size, stride in zip(x.shape[:3], x.stride()[:3], strict=True) if size > 1]
    return strides[-1] if strides else x.shape[3] * x.shape[4]


def as_rows(x: Tensor) -> Tensor:
    """`x` (b, h, w, n, d) itself if its pixels are at one distance, their channels together.

    So are queries, keys and values as slices of what one linear layer gives.
    """
    _, height, width, heads, channels = x.shape
    step = step_of(x)
    expected = (height * width * step, width * step, step, channels, 1)
    fits = all(
        size == 1 or stride == wanted
        for size, stride, wanted in zip(x.shape, x.stride(), expected, strict=True)
    )
    return x if fits and step >= heads * channels else x.contiguous()


def forward(tensors: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """y, and of each softmax the highest logit and the sum less it, (b, heads, 2, h·w) float32."""
    given = Inputs.of(*tensors)
    batch, height, width, heads, _ = given.query.shape
    out = torch.empty(given.query.shape, dtype=given.query.dtype, device=given.query.device)
    norms = torch.empty(
        (batch, heads, 2, height * width), dtype=torch.float32, device=given.query.device
    )
    tiles = given.tiles("forward")
    grid = (heads, launch.cdiv(height * width, tiles.sizes["BM"]), batch)
    launch.run(
        forward_kernel,
        grid,
        *given,
        out,
        norms,
        *given.numbers(),
        blocks=tiles,
        **given.constants(),
    )
    return out, norms
