"""Deformable attention in Triton: no bias in memory, the table is read where it is needed.

Forward and the queries' half of the backward pass go through blocks of keys, the keys' half through
blocks of queries. The table's gradient is the one sum over everything, images included. It needs
no atomics: the bilinear weight of a cell c at t is the hat max(0, 1 − |t − c|), so what one key
gives the table is a product of three matrices, hats of the query rows, gradients of the logits,
hats of the query columns. The gradients of the logits are in memory for it, some images or rows at
a time.

Queries one cell of the table apart share their fractional parts, and only keys have weights (WHOLE
below); in general a weight belongs to a query row or column and a key.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveal.kernels import launch
from foveal.kernels.deformable_attention.fused import like_queries
from foveal.kernels.tuning import Blocks, blocks

# Programs that keep a large GPU busy, if there is work for so many.
PROGRAMS = 1024
# Of the logits' gradients in memory at a time.
CHUNK_BYTES = 256 * 2**20


@triton.jit
def _cell(query, position, cells):
    """Where on an axis of the table the displacement from a key to a query is, in cells."""
    at = ((query - position) * 0.5 + 1.0) * 0.5 * (cells - 1)
    # Off the table all is zero, however far; an integer must hold it.
    return tl.minimum(tl.maximum(at, -1e6), 1e6)


@triton.jit
def _all_coordinates(query, index, size):
    return tl.load(query + index, mask=index < size, other=0.0).to(tl.float32)


@triton.jit
def _coordinates(query, index, size, WHOLE: tl.constexpr):
    """The coordinate of every query or, if they are whole cells apart, of the first."""
    return tl.load(query).to(tl.float32) if WHOLE else _all_coordinates(query, index, size)


@triton.jit
def _look_up(query, index, position, cells, WHOLE: tl.constexpr):
    """The lower of the two cells of every query and key (BM, BN), and the upper one's weight."""
    if WHOLE:
        at = _cell(query, position, cells)[None, :]
        low = tl.floor(at)
        cell = low.to(tl.int32) + index[:, None]
    else:
        at = _cell(query[:, None], position[None, :], cells)
        low = tl.floor(at)
        cell = low.to(tl.int32)
    return cell, at - low


@triton.jit
def _corners(table, row, column, rows, columns):
    """The four cells from (row, column) on, in reading order; zeros outside."""
    at = row * columns + column
    top, bottom = (row >= 0) & (row < rows), (row >= -1) & (row < rows - 1)
    left, right = (column >= 0) & (column < columns), (column >= -1) & (column < columns - 1)
    a = tl.load(table + at, mask=top & left, other=0.0).to(tl.float32)
    b = tl.load(table + at + 1, mask=top & right, other=0.0).to(tl.float32)
    c = tl.load(table + at + columns, mask=bottom & left, other=0.0).to(tl.float32)
    d = tl.load(table + at + columns + 1, mask=bottom & right, other=0.0).to(tl.float32)
    return a, b, c, d


@triton.jit
def _bias(
    table, positions, key, n, query_y, query_x, y, x, ht, wt, WHOLE: tl.constexpr
):  # fmt: skip
    """Of every query and key (BM, BN)."""
    position_y = tl.load(positions + 2 * key, mask=key < n, other=0.0).to(tl.float32)
    position_x = tl.load(positions + 2 * key + 1, mask=key < n, other=0.0).to(tl.float32)
    row, down = _look_up(query_y, y, position_y, ht, WHOLE)
    column, across = _look_up(query_x, x, position_x, wt, WHOLE)
    a, b, c, d = _corners(table, row, column, ht, wt)
    upper, lower = a + across * (b - a), c + across * (d - c)
    return upper + down * (lower - upper)


@triton.jit
def _bias_and_slopes(
    table, positions, key, n, query_y, query_x, y, x, ht, wt, WHOLE: tl.constexpr
):  # fmt: skip
    """The bias, and its derivatives by the two places on the table."""
    position_y = tl.load(positions + 2 * key, mask=key < n, other=0.0).to(tl.float32)
    position_x = tl.load(positions + 2 * key + 1, mask=key < n, other=0.0).to(tl.float32)
    row, down = _look_up(query_y, y, position_y, ht, WHOLE)
    column, across = _look_up(query_x, x, position_x, wt, WHOLE)
    a, b, c, d = _corners(table, row, column, ht, wt)
    upper, lower = a + across * (b - a), c + across * (d - c)
    slope_x = (b - a) + down * ((d - c) - (b - a))
    return upper + down * (lower - upper), lower - upper, slope_x


@triton.jit
def forward_kernel(
    q, k, v, positions, table, query_y, query_x, out, rest, lse,
    heads, groups, h, w, n, d, ht, wt, scale,
    q_b, q_h, q_y, q_x, k_b, k_h, k_n, v_b, v_h, v_n, out_b, out_h, out_y, out_x,
    WHOLE: tl.constexpr, REST: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A program has BM queries of a head and goes through its keys, with a running maximum."""
    tiles = tl.cdiv(h * w, BM)
    block, pair = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    image, head = (pair // heads).to(tl.int64), pair % heads
    i = block * BM + tl.arange(0, BM)
    y, x = i // w, i % w
    feature = tl.arange(0, BD)
    rows = (i < h * w)[:, None] & (feature < d)[None, :]
    at_y, at_x = y.to(tl.int64)[:, None], x.to(tl.int64)[:, None]
    queries = q + image * q_b + head * q_h + at_y * q_y + at_x * q_x + feature[None, :]
    query = tl.load(queries, mask=rows, other=0.0)
    coordinate_y = _coordinates(query_y, y, h, WHOLE)
    coordinate_x = _coordinates(query_x, x, w, WHOLE)
    positions += (image * groups + head // (heads // groups)) * n * 2
    table += head * ht * wt
    k += image * k_b + head * k_h
    v += image * v_b + head * v_h
    largest = tl.full((BM,), float("-inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    mixed = tl.zeros((BM, BD), tl.float32)
    for start in range(0, n, BN):
        key = start + tl.arange(0, BN)
        columns = (key < n)[:, None] & (feature < d)[None, :]
        keys = tl.load(k + key[:, None] * k_n + feature[None, :], mask=columns, other=0.0)
        values = tl.load(v + key[:, None] * v_n + feature[None, :], mask=columns, other=0.0)
        logits = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * scale
        logits += _bias(
            table, positions, key, n, coordinate_y, coordinate_x, y, x, ht, wt, WHOLE
        )  # fmt: skip
        logits = tl.where((key < n)[None, :], logits, float("-inf"))
        larger = tl.maximum(largest, tl.max(logits, 1))
        kept = tl.exp(largest - larger)
        weights = tl.exp(logits - larger[:, None])
        total = total * kept + tl.sum(weights, 1)
        mixed = mixed * kept[:, None]
        mixed += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        largest = larger
    place = image * out_b + head * out_h + at_y * out_y + at_x * out_x + feature[None, :]
    mixed = mixed / total[:, None]
    rounded = mixed.to(query.dtype)
    tl.store(out + place, rounded, mask=rows)
    if REST:
        tl.store(rest + place, mixed - rounded.to(tl.float32), mask=rows)
    tl.store(lse + pair.to(tl.int64) * h * w + i, largest + tl.log(total), mask=i < h * w)


@triton.jit
def query_kernel(
    q, k, v, positions, table, query_y, query_x, out, rest, lse, gradient, d_q, delta, d_logits,
    heads, groups, h, w, n, d, ht, wt, scale,
    q_b, q_h, q_y, q_x, k_b, k_h, k_n, v_b, v_h, v_n, out_b, out_h, out_y, out_x,
    gradient_b, gradient_h, gradient_y, gradient_x, lse_b, lse_h,
    WHOLE: tl.constexpr, REST: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """As forward: the queries' gradients and, if they are kept, those of the logits."""
    tiles = tl.cdiv(h * w, BM)
    block, pair = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    image, head = (pair // heads).to(tl.int64), pair % heads
    i = block * BM + tl.arange(0, BM)
    inside = i < h * w
    y, x = i // w, i % w
    feature = tl.arange(0, BD)
    rows = inside[:, None] & (feature < d)[None, :]
    at_y, at_x = y.to(tl.int64)[:, None], x.to(tl.int64)[:, None]
    queries = q + image * q_b + head * q_h + at_y * q_y + at_x * q_x + feature[None, :]
    query = tl.load(queries, mask=rows, other=0.0)
    gradient += image * gradient_b + head * gradient_h
    gradients = gradient + at_y * gradient_y + at_x * gradient_x + feature[None, :]
    d_out = tl.load(gradients, mask=rows, other=0.0)
    place = image * out_b + head * out_h + at_y * out_y + at_x * out_x + feature[None, :]
    result = tl.load(out + place, mask=rows, other=0.0).to(tl.float32)
    if REST:
        # What rounding took from the output would be wrong by as much in every key's gradient.
        result += tl.load(rest + place, mask=rows, other=0.0).to(tl.float32)
    mean = tl.sum(d_out.to(tl.float32) * result, 1)
    lse += image * lse_b + head * lse_h
    delta += image * lse_b + head * lse_h
    tl.store(delta + i, mean, mask=inside)
    # Queries past the last one take no key.
    level = tl.load(lse + i, mask=inside, other=float("inf"))
    coordinate_y = _coordinates(query_y, y, h, WHOLE)
    coordinate_x = _coordinates(query_x, x, w, WHOLE)
    positions += (image * groups + head // (heads // groups)) * n * 2
    table += head * ht * wt
    k += image * k_b + head * k_h
    v += image * v_b + head * v_h
    d_logits += pair.to(tl.int64) * n * h * w
    found = tl.zeros((BM, BD), tl.float32)
    for start in range(0, n, BN):
        key = start + tl.arange(0, BN)
        columns = (key < n)[:, None] & (feature < d)[None, :]
        keys = tl.load(k + key[:, None] * k_n + feature[None, :], mask=columns, other=0.0)
        values = tl.load(v + key[:, None] * v_n + feature[None, :], mask=columns, other=0.0)
        logits = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * scale
        logits += _bias(
            table, positions, key, n, coordinate_y, coordinate_x, y, x, ht, wt, WHOLE
        )  # fmt: skip
        weights = tl.where((key < n)[None, :], tl.exp(logits - level[:, None]), 0.0)
        slope = tl.dot(d_out, tl.trans(values), input_precision=PRECISION)
        slope = weights * (slope - mean[:, None])
        found += tl.dot(slope.to(keys.dtype), keys, input_precision=PRECISION)
        if KEEP:
            lines = (key.to(tl.int64) * h * w)[None, :]
            kept = d_logits + lines + i[:, None]
            tl.store(kept, slope, mask=inside[:, None] & (key < n)[None, :])
    tl.store(d_q + place, found * scale, mask=rows)


@triton.jit
def key_kernel(
    q, k, v, positions, table, query_y, query_x, lse, gradient, delta, d_k, d_v, d_positions,
    images, heads, groups, h, w, n, d, ht, wt, scale, splits,
    q_b, q_h, q_y, q_x, k_b, k_h, k_n, v_b, v_h, v_n,
    gradient_b, gradient_h, gradient_y, gradient_x,
    WHOLE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """A program has BN keys of a head and goes through every `splits`-th block of its queries."""
    tiles, pairs = tl.cdiv(n, BN), images * heads
    block, pair = tl.program_id(0) % tiles, tl.program_id(0) // tiles % pairs
    split = tl.program_id(0) // tiles // pairs
    image, head = (pair // heads).to(tl.int64), pair % heads
    key = block * BN + tl.arange(0, BN)
    feature = tl.arange(0, BD)
    columns = (key < n)[:, None] & (feature < d)[None, :]
    k += image * k_b + head * k_h
    v += image * v_b + head * v_h
    keys = tl.load(k + key[:, None] * k_n + feature[None, :], mask=columns, other=0.0)
    values = tl.load(v + key[:, None] * v_n + feature[None, :], mask=columns, other=0.0)
    positions += (image * groups + head // (heads // groups)) * n * 2
    table += head * ht * wt
    q += image * q_b + head * q_h
    gradient += image * gradient_b + head * gradient_h
    lse += pair.to(tl.int64) * h * w
    delta += pair.to(tl.int64) * h * w
    found_k = tl.zeros((BN, BD), tl.float32)
    found_v = tl.zeros((BN, BD), tl.float32)
    found_y = tl.zeros((BN,), tl.float32)
    found_x = tl.zeros((BN,), tl.float32)
    for start in range(split * BM, h * w, splits * BM):
        i = start + tl.arange(0, BM)
        inside = i < h * w
        y, x = i // w, i % w
        rows = inside[:, None] & (feature < d)[None, :]
        at_y, at_x = y.to(tl.int64)[:, None], x.to(tl.int64)[:, None]
        query = tl.load(q + at_y * q_y + at_x * q_x + feature[None, :], mask=rows, other=0.0)
        gradients = gradient + at_y * gradient_y + at_x * gradient_x + feature[None, :]
        d_out = tl.load(gradients, mask=rows, other=0.0)
        level = tl.load(lse + i, mask=inside, other=float("inf"))
        mean = tl.load(delta + i, mask=inside, other=0.0)
        coordinate_y = _coordinates(query_y, y, h, WHOLE)
        coordinate_x = _coordinates(query_x, x, w, WHOLE)
        bias, slope_y, slope_x = _bias_and_slopes(
            table, positions, key, n, coordinate_y, coordinate_x, y, x, ht, wt, WHOLE
        )
        logits = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * scale + bias
        weights = tl.where((key < n)[None, :], tl.exp(logits - level[:, None]), 0.0)
        slope = tl.dot(d_out, tl.trans(values), input_precision=PRECISION)
        slope = weights * (slope - mean[:, None])
        found_y += tl.sum(slope * slope_y, 0)
        found_x += tl.sum(slope * slope_x, 0)
        weights, slope = weights.to(query.dtype), slope.to(query.dtype)
        found_v += tl.dot(tl.trans(weights), d_out, input_precision=PRECISION)
        found_k += tl.dot(tl.trans(slope), query, input_precision=PRECISION)
    # Partial sums are (splits, b, n, heads, …).
    place = ((split * images + image) * n + key) * heads + head
    features = place[:, None] * d + feature[None, :]
    tl.store(d_k + features, found_k * scale, mask=columns)
    tl.store(d_v + features, found_v, mask=columns)
    # A key that moves forward is a displacement that shrinks.
    tl.store(d_positions + 2 * place, found_y * -0.25 * (ht - 1), mask=key < n)
    tl.store(d_positions + 2 * place + 1, found_x * -0.25 * (wt - 1), mask=key < n)


@triton.jit
def table_kernel(
    d_logits, positions, query_y, query_x, d_table,
    images, heads, groups, h, w, n, ht, wt, splits, PRECISION: tl.constexpr,
    BY: tl.constexpr, BX: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A program has BR × BC cells of a head's table and every `splits`-th key of the images.

    It adds to what `d_table` (splits, heads, ht, wt) holds.
    """
    tiles = tl.cdiv(wt, BC)
    first_row, first_column = tl.program_id(0) // tiles * BR, tl.program_id(0) % tiles * BC
    head, split = tl.program_id(1), tl.program_id(2)
    row, column = first_row + tl.arange(0, BR), first_column + tl.arange(0, BC)
    found = tl.zeros((BR, BC), tl.float32)
    for one in range(split, images * n, splits):
        image, key = one // n, one % n
        position = positions + ((image * groups + head // (heads // groups)) * n + key) * 2
        position_y = tl.load(position).to(tl.float32)
        position_x = tl.load(position + 1).to(tl.float32)
        logits = d_logits + ((image * heads + head).to(tl.int64) * n + key) * h * w
        for start_x in range(0, w, BX):
            x = start_x + tl.arange(0, BX)
            at_x = _cell(_all_coordinates(query_x, x, w), position_x, wt)
            near_x = (at_x > first_column - 1) & (at_x < first_column + BC)
            if tl.max(near_x.to(tl.int32), 0) == 1:
                lines = tl.zeros((BR, BX), tl.float32)
                for start_y in range(0, h, BY):
                    y = start_y + tl.arange(0, BY)
                    at_y = _cell(_all_coordinates(query_y, y, h), position_y, ht)
                    near_y = (at_y > first_row - 1) & (at_y < first_row + BR)
                    if tl.max(near_y.to(tl.int32), 0) == 1:
                        inside = (y < h)[:, None] & (x < w)[None, :]
                        place = logits + y[:, None] * w + x[None, :]
                        slope = tl.load(place, mask=inside, other=0.0).to(tl.float32)
                        hats = tl.maximum(1.0 - tl.abs(at_y[None, :] - row[:, None]), 0.0)
                        lines += tl.dot(hats, slope, input_precision=PRECISION)
                hats = tl.maximum(1.0 - tl.abs(at_x[:, None] - column[None, :]), 0.0)
                found += tl.dot(lines, hats, input_precision=PRECISION)
    inside = (row < ht)[:, None] & (column < wt)[None, :]
    place = ((split * heads + head) * ht + row[:, None]) * wt + column[None, :]
    tl.store(d_table + place, tl.load(d_table + place, mask=inside, other=0.0) + found, mask=inside)


class _Lookup(NamedTuple):
    """The bias: positions of the keys, table, coordinates of the queries, all contiguous."""

    positions: Tensor
    table: Tensor
    query_y: Tensor
    query_x: Tensor

    @staticmethod
    def of(*tensors: Tensor) -> "_Lookup":
        return _Lookup(*(tensor.contiguous() for tensor in tensors))

    def whole_steps(self, corner_aligned: bool) -> bool:
        """Whether neighbouring queries are exactly one cell of the table apart."""
        h, w = self.query_y.shape[0], self.query_x.shape[0]
        return corner_aligned and self.table.shape[1:] == (2 * h - 1, 2 * w - 1)


def forward(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor,
    query_y: Tensor, query_x: Tensor, corner_aligned: bool, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The contract of the package, what rounding took from it, and log Σ exp (b, heads, h, w).

    Of these the last is float32 and the second, if it is not kept or there is none, empty.
    """
    q, k, v = _rows(q), _rows(k), _rows(v)
    lookup = _Lookup.of(positions, table, query_y, query_x)
    out = like_queries(q)
    keep = keep and q.dtype != torch.float32
    rest = like_queries(q) if keep else q.new_empty(0)
    lse = torch.empty(q.shape[:4], dtype=torch.float32, device=q.device)
    tiles = _fitting("forward", q, k)
    launch.run(
        forward_kernel,
        (launch.cdiv(q.shape[2] * q.shape[3], tiles.sizes["BM"]) * q.shape[0] * q.shape[1],),
        q, k, v, *lookup, out, rest, lse,
        *_sizes(q, k, lookup), *_strides(q, k, v, out),
        blocks=tiles, WHOLE=lookup.whole_steps(corner_aligned), REST=keep, PRECISION=_precision(q),
    )  # fmt: skip
    return out, rest, lse


def backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor,
    query_y: Tensor, query_x: Tensor, out: Tensor, rest: Tensor, lse: Tensor, corner_aligned: bool,
    table_needed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The gradients of q, k, v, positions and, unless it is not needed and empty, table."""
    q, k, v, gradient = _rows(q), _rows(k), _rows(v), _rows(gradient)
    # As forward made them, unless a compiler has other ideas.
    out, rest, lse = _in_order(out), _in_order(rest), lse.contiguous()
    lookup = _Lookup.of(positions, table, query_y, query_x)
    whole = lookup.whole_steps(corner_aligned)
    d_q, delta = like_queries(q), torch.empty_like(lse)
    d_table = _TableGradient(table, _precision(q)) if table_needed else None
    for images, rows in _chunks(q, k) if table_needed else [(slice(None), slice(None))]:
        # Views: the kernels see a batch of fewer images, or maps of fewer rows.
        tensors = (q, out, rest, lse, gradient, d_q, delta)
        part_q, *parts = (t[images, :, rows] if t.numel() else t for t in tensors)
        part = lookup._replace(positions=lookup.positions[images], query_y=lookup.query_y[rows])
        d_logits = _query_gradients(part_q, k[images], v[images], part, parts, whole, table_needed)
        if d_table is not None:
            d_table.add(d_logits, part)
    d_k, d_v, d_positions = _key_gradients(q, k, v, lookup, lse, gradient, delta, whole)
    d_positions = d_positions.to(positions.dtype)
    return d_q, d_k, d_v, d_positions, table.new_empty(0) if d_table is None else d_table.sum()


def _query_gradients(
    q: Tensor, k: Tensor, v: Tensor, lookup: _Lookup, parts: list[Tensor], whole: bool, keep: bool
) -> Tensor:
    """Fills in d_q and delta; the gradients of the logits (b, heads, n, h·w), if they are kept."""
    out, rest, lse, gradient, d_q, delta = parts
    b, heads, h, w, _ = q.shape
    d_logits = q.new_empty((b, heads, k.shape[2], h * w) if keep else 1, dtype=torch.float32)
    tiles = _fitting("query", q, k)
    launch.run(
        query_kernel,
        (launch.cdiv(h * w, tiles.sizes["BM"]) * b * heads,),
        q, k, v, *lookup, out, rest, lse, gradient, d_q, delta, d_logits,
        *_sizes(q, k, lookup), *_strides(q, k, v, out, gradient), *lse.stride()[:2],
        blocks=tiles, WHOLE=whole, REST=rest.numel() > 0, KEEP=keep, PRECISION=_precision(q),
    )  # fmt: skip
    return d_logits


def _key_gradients(
    q: Tensor, k: Tensor, v: Tensor, lookup: _Lookup, lse: Tensor, gradient: Tensor, delta: Tensor,
    whole: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of k, v and positions, the sums of what every program found."""
    b, heads, h, w, d = q.shape
    n, groups = k.shape[2], lookup.positions.shape[1]
    tiles = _fitting("key", q, k)
    programs = launch.cdiv(n, tiles.sizes["BN"]) * b * heads
    splits = min(launch.cdiv(PROGRAMS, programs), launch.cdiv(h * w, tiles.sizes["BM"]))
    found = {"dtype": torch.float32, "device": q.device}
    d_k = torch.empty((splits, b, n, heads, d), **found)
    d_v = torch.empty_like(d_k)
    d_positions = torch.empty((splits, b, n, heads, 2), **found)
    launch.run(
        key_kernel,
        (programs * splits,),
        q, k, v, *lookup, lse, gradient, delta, d_k, d_v, d_positions,
        b, *_sizes(q, k, lookup), splits, *_strides(q, k, v, gradient),
        blocks=tiles, WHOLE=whole, PRECISION=_precision(q),
    )  # fmt: skip
    d_k, d_v = (part.sum(0).to(q.dtype).transpose(1, 2) for part in (d_k, d_v))
    return d_k, d_v, d_positions.unflatten(3, (groups, -1)).sum((0, 4)).transpose(1, 2).contiguous()


class _TableGradient:
    """Partial sums over keys and images, one chunk after the other."""

    def __init__(self, table: Tensor, precision: str):
        self.precision = precision
        heads, ht, wt = table.shape
        self.dtype = table.dtype
        self.tiles = _shrunk(blocks("deformable_attention.table"), BR=ht, BC=wt)
        self.grid = (
            launch.cdiv(ht, self.tiles.sizes["BR"]) * launch.cdiv(wt, self.tiles.sizes["BC"]),
            heads,
        )
        self.partial: Tensor | None = None

    def add(self, d_logits: Tensor, lookup: _Lookup) -> None:
        """Count in the gradients of the logits (b, heads, n, h·w) of a chunk."""
        b, heads, n, _ = d_logits.shape
        h, w, groups = *(t.shape[0] for t in lookup[2:]), lookup.positions.shape[1]
        ht, wt = lookup.table.shape[1:]
        if self.partial is None:
            splits = min(launch.cdiv(PROGRAMS, self.grid[0] * heads), b * n)
            shape = (splits, heads, ht, wt)
            self.partial = torch.zeros(shape, dtype=torch.float32, device=d_logits.device)
        splits = self.partial.shape[0]
        tiles = _shrunk(self.tiles, BY=h, BX=w)
        launch.run(
            table_kernel,
            (*self.grid, splits),
            d_logits, lookup.positions, lookup.query_y, lookup.query_x, self.partial,
            b, heads, groups, h, w, n, ht, wt, splits,
            blocks=tiles, PRECISION=self.precision,
        )  # fmt: skip

    def sum(self) -> Tensor:
        """The gradient of the table, in its dtype."""
        assert self.partial is not None
        return self.partial.sum(0).to(self.dtype)


def _chunks(q: Tensor, k: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and rows whose logits fit together, all images and rows in turn."""
    b, heads, h, w, _ = q.shape
    row = heads * w * k.shape[2] * 4
    images, rows = max(CHUNK_BYTES // (row * h), 1), max(CHUNK_BYTES // row, 1)
    for image in range(0, b, images):
        for y in range(0, h, rows):
            yield slice(image, image + images), slice(y, y + rows)


def _rows(tensor: Tensor) -> Tensor:
    """The kernels read features side by side; any other stride is taken as it is."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _in_order(out: Tensor) -> Tensor:
    """In memory as `like_queries` has it; empty as it is."""
    return out.permute(0, 2, 3, 1, 4).contiguous().permute(0, 3, 1, 2, 4) if out.ndim == 5 else out


def _strides(*tensors: Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()[:-1]]


def _sizes(q: Tensor, k: Tensor, lookup: _Lookup) -> tuple[int | float, ...]:
    _, heads, h, w, d = q.shape
    groups, (ht, wt) = lookup.positions.shape[1], lookup.table.shape[1:]
    return heads, groups, h, w, k.shape[2], d, ht, wt, d**-0.5


def _precision(q: Tensor) -> str:
    return "ieee" if q.dtype == torch.float32 else "tf32"


def _fitting(kernel: str, q: Tensor, k: Tensor) -> Blocks:
    """The kernel's blocks, none much larger than what it has to cover."""
    _, _, h, w, d = q.shape
    dtype = "_float32" if q.dtype == torch.float32 else ""
    tiles = blocks(f"deformable_attention.{kernel}{dtype}")
    # All features are in one block.
    tiles = tiles._replace(sizes={**tiles.sizes, "BD": max(16, launch.power_of_two(d))})
    return _shrunk(tiles, BM=h * w, BN=k.shape[2])


def _shrunk(tiles: Blocks, **sizes: int) -> Blocks:
    # Matrix products take sides of 16 and more.
    least = {name: max(16, launch.power_of_two(size)) for name, size in sizes.items()}
    fitting = {name: min(tiles.sizes[name], size) for name, size in least.items()}
    return tiles._replace(sizes={**tiles.sizes, **fitting})
