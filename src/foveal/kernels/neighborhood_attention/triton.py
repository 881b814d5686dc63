"""Neighbourhood attention in Triton: tiles of the map against everything in their reach.

A program has BY x BX positions of the map, one head and IMAGES images of the batch. Everything its
positions may see, or be seen by, lies in a rectangle around them. That is numbered row by row, cut
into blocks of BN and met in dense products. Bias and mask of a block are the same for all images.

Along an axis of `height` positions the neighbourhood of i begins at start(i), and

    j is seen by i from i = 0 if j < S, else from j − S//2;
    to the last i if j ≥ height − S, else to j + S//2.

No sum is left to atomics: the table's gradient is stored by query and neighbour, one sum over its
images per program, and gathered from there.
"""

# Loops over `static_range` and tuples of blocks are Triton's, not Python's.
# pyright: reportCallIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveal.kernels import launch
from foveal.kernels.tuning import Blocks, blocks

# Fewer programs than this leave a large GPU idle, and are made more by giving them fewer images.
PROGRAMS = 512
_LOG2_E = 1.4426950408889634


@triton.jit
def _tile(heads, height, width, columns, BY: tl.constexpr, BX: tl.constexpr):
    """A program's head, first row and column; its positions by number, row, column, on the map?

    Past the end of the map a tile repeats its last positions.
    """
    head, tile = tl.program_id(0) % heads, tl.program_id(0) // heads
    y0, x0, m = tile // columns * BY, tile % columns * BX, tl.arange(0, BY * BX)
    y, x = tl.minimum(y0 + m // BX, height - 1), tl.minimum(x0 + m % BX, width - 1)
    return head, y0, x0, m, y, x, (y0 + m // BX < height) & (x0 + m % BX < width)


@triton.jit
def _start(position, size, S: tl.constexpr):
    """The first neighbour along an axis."""
    return tl.minimum(tl.maximum(position - S // 2, 0), size - S)


@triton.jit
def _within(position, first, S: tl.constexpr):
    """first ≤ position < first + S, in one comparison: a negative number is a large one."""
    return (position - first).to(tl.uint32, bitcast=True) < S


@triton.jit
def _bias(table, qy, qx, top, left, ky, kx, S: tl.constexpr):
    """Bias of neighbours in units of log 2, −∞ for all others; `top`, `left` begin at them."""
    near = _within(ky, top, S) & _within(kx, left, S)
    # Key − query + S − 1 along both axes, as one difference.
    at = (ky * (2 * S - 1) + kx) - (qy * (2 * S - 1) + qx - (S - 1) * 2 * S)
    bias = tl.load(table + at, mask=near, other=float("-inf"))
    return bias.to(tl.float32) * 1.4426950408889634


@triton.jit
def _product(a, b):
    """a @ b in float32; float32 itself from three products of TF32, which is nearly exact."""
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit
def forward_kernel(
    q, k, v, table, out, lse, batch, heads, h, w, height, width, columns, sb, sy, sx, sh, scale,
    S: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, IMAGES: tl.constexpr,
    BY: tl.constexpr, BX: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """A program has a tile of queries and goes through the blocks of keys that they see."""
    BM: tl.constexpr = BY * BX
    SPAN: tl.constexpr = BX + S - 1
    head, y0, x0, m, y, x, inner = _tile(heads, h, w, columns, BY, BX)
    n, channel = tl.arange(0, BN), tl.arange(0, DP)[None, :]
    kept = channel < D
    qy, qx = y[:, None], x[:, None]
    top, left = _start(qy, height, S), _start(qx, width, S)
    first_y, first_x = _start(y0, height, S), _start(x0, width, S)
    table += head * (2 * S - 1) * (2 * S - 1)
    first = tl.program_id(1) * IMAGES
    start = head * sh + first.to(tl.int64) * sb
    q, k, v = q + start, k + start, v + start
    # Past the end of the batch a program repeats the last image.
    last = batch - 1 - first

    queries, highest, totals, sums = (), (), (), ()
    for g in tl.static_range(IMAGES):
        at = q + tl.minimum(g, last).to(tl.int64) * sb
        queries += (tl.load(at + qy * sy + qx * sx + channel, mask=kept, other=0.0),)
        # Finite, since −∞ less −∞ is no number: a block may hold no neighbour of a query.
        highest += (tl.full((BM,), -1e30, tl.float32),)
        totals += (tl.zeros((BM,), tl.float32),)
        sums += (tl.zeros((BM, DP), tl.float32),)
    for j in range(0, (BY + S - 1) * SPAN, BN):
        ky, kx = first_y + (j + n) // SPAN, first_x + (j + n) % SPAN
        bias = _bias(table, qy, qx, top, left, ky[None, :], kx[None, :], S)
        key_at = (tl.minimum(ky, height - 1) * sy + tl.minimum(kx, width - 1) * sx)[:, None]
        higher, more, weighted = (), (), ()
        for g in tl.static_range(IMAGES):
            image = tl.minimum(g, last).to(tl.int64) * sb
            key = tl.load(k + image + key_at + channel, mask=kept, other=0.0)
            value = tl.load(v + image + key_at + channel, mask=kept, other=0.0)
            logits = _product(queries[g], tl.trans(key)) * scale + bias
            high = tl.maximum(highest[g], tl.max(logits, 1))
            weight, shrink = tl.exp2(logits - high[:, None]), tl.exp2(highest[g] - high)
            higher += (high,)
            more += (totals[g] * shrink + tl.sum(weight, 1),)
            weighted += (sums[g] * shrink[:, None] + _product(weight.to(value.dtype), value),)
        highest, totals, sums = higher, more, weighted

    out_at = ((qy * w + qx) * heads + head) * D + channel
    for g in tl.static_range(IMAGES):
        inside = inner & (m * 0 + g <= last)
        at = out + (first + g).to(tl.int64) * h * w * heads * D + out_at
        tl.store(at, sums[g] / totals[g][:, None], mask=inside[:, None] & kept)
        at = lse + ((first + g).to(tl.int64) * heads + head) * h * w + y * w + x
        tl.store(at, (highest[g] + tl.log2(totals[g])) * 0.6931471805599453, mask=inside)


@triton.jit
def d_query_kernel(
    q, k, v, table, d_out, out, lse, delta, d_q, d_near,
    batch, heads, h, w, height, width, columns, sb, sy, sx, sh, scale, hp, wp,
    S: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, IMAGES: tl.constexpr,
    BY: tl.constexpr, BX: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """As forward: gradients of a tile of queries, and of the biases they met."""
    BM: tl.constexpr = BY * BX
    SPAN: tl.constexpr = BX + S - 1
    head, y0, x0, m, y, x, inner = _tile(heads, h, w, columns, BY, BX)
    n, channel = tl.arange(0, BN), tl.arange(0, DP)[None, :]
    kept = channel < D
    qy, qx = y[:, None], x[:, None]
    top, left = _start(qy, height, S), _start(qx, width, S)
    first_y, first_x = _start(y0, height, S), _start(x0, width, S)
    table += head * (2 * S - 1) * (2 * S - 1)
    first = tl.program_id(1) * IMAGES
    start = head * sh + first.to(tl.int64) * sb
    q, k, v = q + start, k + start, v + start
    last = batch - 1 - first

    out_at = ((qy * w + qx) * heads + head) * D + channel
    queries, d_results, means, log_sums, d_queries = (), (), (), (), ()
    for g in tl.static_range(IMAGES):
        # Past an end nothing comes back, and so nothing is added to any gradient.
        inside, image = inner & (m * 0 + g <= last), tl.minimum(g, last).to(tl.int64)
        at = (first + g).to(tl.int64) * h * w * heads * D + out_at
        d_result = tl.load(d_out + at, mask=inside[:, None] & kept, other=0.0)
        result = tl.load(out + at, mask=inside[:, None] & kept, other=0.0)
        means += (tl.sum(result.to(tl.float32) * d_result.to(tl.float32), 1),)
        row = ((first + g).to(tl.int64) * heads + head) * h * w + y * w + x
        tl.store(delta + row, means[g], mask=inside)
        row = ((first + image) * heads + head) * h * w + y * w + x
        log_sums += (tl.load(lse + row) * 1.4426950408889634,)
        at = q + image * sb + qy * sy + qx * sx + channel
        queries += (tl.load(at, mask=kept, other=0.0),)
        d_results += (d_result,)
        d_queries += (tl.zeros((BM, DP), tl.float32),)
    # (group of images, head, query, neighbour): a row of neighbours lies together.
    d_near += (tl.program_id(1).to(tl.int64) * heads + head) * h * w * (S * S)
    for j in range(0, (BY + S - 1) * SPAN, BN):
        ky, kx = first_y + (j + n) // SPAN, first_x + (j + n) % SPAN
        bias = _bias(table, qy, qx, top, left, ky[None, :], kx[None, :], S)
        key_at = (tl.minimum(ky, height - 1) * sy + tl.minimum(kx, width - 1) * sx)[:, None]
        d_bias, added = tl.zeros((BM, BN), tl.float32), ()
        for g in tl.static_range(IMAGES):
            image = tl.minimum(g, last).to(tl.int64) * sb
            key = tl.load(k + image + key_at + channel, mask=kept, other=0.0)
            value = tl.load(v + image + key_at + channel, mask=kept, other=0.0)
            logits = _product(queries[g], tl.trans(key)) * scale + bias
            weight = tl.exp2(logits - log_sums[g][:, None])
            d_logits = weight * (_product(d_results[g], tl.trans(value)) - means[g][:, None])
            d_bias += d_logits
            added += (d_queries[g] + _product(d_logits.to(key.dtype), key),)
        d_queries = added
        down, across = ky[None, :] - top, kx[None, :] - left
        near = inner[:, None] & _within(down, 0, S) & _within(across, 0, S)
        tl.store(d_near + ((qy * w + qx) * S + down) * S + across, d_bias, mask=near)

    d_query_at = ((qy * wp + qx) * heads + head) * D + channel
    for g in tl.static_range(IMAGES):
        inside = inner & (m * 0 + g <= last)
        at = d_q + (first + g).to(tl.int64) * hp * wp * heads * D + d_query_at
        tl.store(at, d_queries[g] * (scale * 0.6931471805599453), mask=inside[:, None] & kept)


@triton.jit
def d_key_value_kernel(
    q, k, v, table, d_out, lse, delta, d_k, d_v,
    batch, heads, h, w, height, width, columns, sb, sy, sx, sh, scale, hp, wp,
    S: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, IMAGES: tl.constexpr,
    BY: tl.constexpr, BX: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """A program has a tile of keys and goes through the blocks of queries that see them."""
    BM: tl.constexpr = BY * BX
    head, y0, x0, m, y, x, inner = _tile(heads, height, width, columns, BY, BX)
    n, channel = tl.arange(0, BN), tl.arange(0, DP)[None, :]
    kept, ky, kx = channel < D, y[:, None], x[:, None]
    first_y, last_y = _seen_from(y0, height, h, S, BY)
    first_x, last_x = _seen_from(x0, width, w, S, BX)
    span = last_x - first_x + 1
    table += head * (2 * S - 1) * (2 * S - 1)
    first = tl.program_id(1) * IMAGES
    start = head * sh + first.to(tl.int64) * sb
    q, k, v = q + start, k + start, v + start
    d_out += first.to(tl.int64) * h * w * heads * D + head * D
    lse += (first.to(tl.int64) * heads + head) * h * w
    delta += (first.to(tl.int64) * heads + head) * h * w
    last = batch - 1 - first

    keys, values, d_keys, d_values = (), (), (), ()
    for g in tl.static_range(IMAGES):
        at = tl.minimum(g, last).to(tl.int64) * sb + ky * sy + kx * sx + channel
        keys += (tl.load(k + at, mask=kept, other=0.0),)
        values += (tl.load(v + at, mask=kept, other=0.0),)
        d_keys += (tl.zeros((BM, DP), tl.float32),)
        d_values += (tl.zeros((BM, DP), tl.float32),)
    for j in range(0, (last_y - first_y + 1) * span, BN):
        qy, qx = first_y + (j + n) // span, first_x + (j + n) % span
        seen = (qy <= last_y)[:, None] & kept
        # Queries of rows after the last see nothing.
        top = tl.where(qy <= last_y, _start(qy, height, S), height)[None, :]
        left = _start(qx, width, S)[None, :]
        bias = _bias(table, qy[None, :], qx[None, :], top, left, ky, kx, S)
        query_at, out_at = (qy * sy + qx * sx)[:, None], ((qy * w + qx) * heads * D)[:, None]
        more, weighted = (), ()
        for g in tl.static_range(IMAGES):
            image = tl.minimum(g, last).to(tl.int64)
            query = tl.load(q + image * sb + query_at + channel, mask=seen, other=0.0)
            result = d_out + image * h * w * heads * D
            d_result = tl.load(result + out_at + channel, mask=seen, other=0.0)
            row = image * heads * h * w + qy * w + qx
            log_sum = tl.load(lse + row, mask=qy <= last_y, other=0.0) * 1.4426950408889634
            mean = tl.load(delta + row, mask=qy <= last_y, other=0.0)
            logits = _product(keys[g], tl.trans(query)) * scale + bias
            weight = tl.exp2(logits - log_sum[None, :])
            weighted += (d_values[g] + _product(weight.to(query.dtype), d_result),)
            d_logits = weight * (_product(values[g], tl.trans(d_result)) - mean[None, :])
            more += (d_keys[g] + _product(d_logits.to(query.dtype), query),)
        d_keys, d_values = more, weighted

    d_key_at = ((ky * wp + kx) * heads + head) * D + channel
    for g in tl.static_range(IMAGES):
        inside = inner & (m * 0 + g <= last)
        at = (first + g).to(tl.int64) * hp * wp * heads * D + d_key_at
        d_key = d_keys[g] * (scale * 0.6931471805599453)
        tl.store(d_k + at, d_key, mask=inside[:, None] & kept)
        tl.store(d_v + at, d_values[g], mask=inside[:, None] & kept)


@triton.jit
def _seen_from(first, size, queries, S: tl.constexpr, SIDE: tl.constexpr):
    """The first and the last query along an axis that see any of SIDE keys."""
    last = first + SIDE - 1
    low = tl.where(first < S, 0, first - S // 2)
    high = tl.where(last >= size - S, size - 1, last + S // 2)
    return low, tl.minimum(high, queries - 1)


@triton.jit
def d_bias_kernel(
    d_near, d_table, h, w, height, width,
    S: tl.constexpr, M: tl.constexpr, BM: tl.constexpr, BP: tl.constexpr,
):  # fmt: skip
    """A program has a row of a head's table and goes through the queries."""
    head, row = tl.program_id(0), tl.program_id(1)
    column = tl.arange(0, BM)[None, :]
    total = tl.zeros((BP, BM), tl.float32)
    for p in range(0, h * w, BP):
        query = p + tl.arange(0, BP)[:, None]
        y, x = query // w, query % w
        # The neighbour at this place in the table, counted from the query's first.
        dy = row - (S - 1) + y - _start(y, height, S)
        dx = column - (S - 1) + x - _start(x, width, S)
        here = (query < h * w) & (dy >= 0) & (dy < S) & (dx >= 0) & (dx < S) & (column < M)
        at = ((head.to(tl.int64) * h * w + query) * S + dy) * S + dx
        total += tl.load(d_near + at, mask=here, other=0.0)
    at = (head * M + row) * M + tl.arange(0, BM)
    tl.store(d_table + at, tl.sum(total, 0), mask=tl.arange(0, BM) < M)


def forward(
    q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, size: Sequence[int], kernel: int
) -> tuple[Tensor, Tensor]:
    """The contract of the package, and the logarithm of the softmax's sum (b heads h w)."""
    q, k, v = _alike(q, k, v)
    b, heads, d = q.shape[0], q.shape[3], q.shape[4]
    out = torch.empty(b, *size, heads, d, dtype=q.dtype, device=q.device)
    lse = torch.empty(b, heads, *size, dtype=torch.float32, device=q.device)
    plan = _plan("forward", q, size, kernel)
    _launch(plan, (q, k, v, position_bias.contiguous(), out, lse), q)
    return out, lse


def backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position_bias: Tensor,
    out: Tensor,
    lse: Tensor,
    kernel: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of q, k, v and the bias."""
    q, k, v = _alike(q, k, v)
    table, gradient = position_bias.contiguous(), gradient.contiguous()
    heads, size, padded = q.shape[3], out.shape[1:3], q.shape[1:3]
    delta, d_q = torch.empty_like(lse), _gradient(q, size)
    d_k, d_v = (_gradient(x, _covered(size, kernel)) for x in (k, v))
    plan = _plan("d_query", q, size, kernel)
    shape = plan.grid[1], heads, *size, kernel, kernel
    d_near = torch.empty(shape, dtype=lse.dtype, device=q.device)
    _launch(plan, (q, k, v, table, gradient, out, lse, delta, d_q, d_near), q, *padded)
    plan = _plan("d_key_value", q, size, kernel)
    _launch(plan, (q, k, v, table, gradient, lse, delta, d_k, d_v), q, *padded)
    return d_q, d_k, d_v, _d_table(d_near, table, kernel)


def _d_table(d_near: Tensor, table: Tensor, kernel: int) -> Tensor:
    """The table's gradient from that of (group of images, head, y, x, ky, kx)."""
    d_near = d_near.sum(0) if d_near.shape[0] > 1 else d_near
    out = torch.empty_like(table)
    heads, side, size = table.shape[0], table.shape[1], d_near.shape[-4:-2]
    numbers = *size, *_covered(size, kernel)
    constants = {"S": kernel, "M": side, "BM": launch.power_of_two(side)}
    tiles = blocks("neighborhood_attention.d_bias")
    launch.run(d_bias_kernel, (heads, side), d_near, out, *numbers, blocks=tiles, **constants)
    return out


def _alike(*tensors: Tensor) -> list[Tensor]:
    """Tensors with one set of strides, as the parts of one product have, and adjacent channels."""
    if len({tensor.stride() for tensor in tensors}) == 1 and tensors[0].stride(4) == 1:
        return list(tensors)
    return [tensor.contiguous() for tensor in tensors]


def _gradient(x: Tensor, written: Sequence[int]) -> Tensor:
    """Memory for a gradient of which the kernels write a corner; it is nothing elsewhere."""
    make = torch.empty if tuple(x.shape[1:3]) == tuple(written) else torch.zeros
    return make(x.shape, dtype=x.dtype, device=x.device)


def _covered(size: Sequence[int], kernel: int) -> list[int]:
    """The part of the map that takes part as keys."""
    return [max(n, kernel) for n in size]


class _Plan(NamedTuple):
    """A kernel, its programs, the numbers it is given and its constants."""

    kernel: Any
    grid: tuple[int, int]
    numbers: tuple[int, ...]
    tiles: Blocks
    constants: dict[str, int]


_KERNELS = {
    "forward": forward_kernel,
    "d_query": d_query_kernel,
    "d_key_value": d_key_value_kernel,
}


def _plan(name: str, q: Tensor, size: Sequence[int], kernel: int) -> _Plan:
    b, heads, d = q.shape[0], q.shape[3], q.shape[4]
    channels = max(launch.power_of_two(d), 16)
    width = channels * q.element_size()
    kind = ".deepest" if width > 256 else ".deep" if width > 64 else ""
    tiles = blocks(f"neighborhood_attention.{name}{kind}")
    covered, sides = _covered(size, kernel), (tiles.sizes["BY"], tiles.sizes["BX"])
    area = covered if name == "d_key_value" else size
    rows, columns = (launch.cdiv(n, side) for n, side in zip(area, sides, strict=True))
    programs, images = rows * columns * heads, tiles.sizes["IMAGES"]
    while images > 1 and (images > b or programs * launch.cdiv(b, images) < PROGRAMS):
        images //= 2
    return _Plan(
        _KERNELS[name],
        (programs, launch.cdiv(b, images)),
        (b, heads, *size, *covered, columns),
        tiles._replace(sizes={**tiles.sizes, "IMAGES": images}),
        {"S": kernel, "D": d, "DP": channels},
    )


def _launch(plan: _Plan, tensors: tuple[Tensor, ...], q: Tensor, *padded: int) -> None:
    numbers = *plan.numbers, *q.stride()[:4], q.shape[4] ** -0.5 * _LOG2_E, *padded
    launch.run(plan.kernel, plan.grid, *tensors, *numbers, blocks=plan.tiles, **plan.constants)
