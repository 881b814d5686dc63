"""Deformable attention in plain PyTorch, over as many query columns at a time as memory allows."""

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.chunks import row_chunks
from foveal.kernels.precision import at_least_float32, full_precision
from foveal.kernels.shapes import reshape
from foveal.kernels.tables import table as cached_table


class Bias(NamedTuple):
    """What is added to the logits, by query columns.

    Attributes:
        columns: the bias of some query columns, (b or 1, heads, h, columns, n).
        bytes_per_column: what making one of them takes.
    """

    columns: Callable[[slice], Tensor]
    bytes_per_column: int


class Lookup(NamedTuple):
    """Two neighbouring cells along one axis of a table and weights, each (b, groups, q, n)."""

    low: Tensor
    high: Tensor
    low_weight: Tensor
    high_weight: Tensor


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    table: Tensor,
    query_y: Tensor,
    query_x: Tensor,
) -> Tensor:
    """The contract of the package."""
    return attend(q, k, v, table_bias(table, positions, query_y, query_x))


def sample(x: Tensor, positions: Tensor) -> Tensor:
    """The map at the positions of each group of channels, (b, c, hk, wk), in float32 or better."""
    wide = at_least_float32(x)
    with full_precision(x):
        groups = zip(
            wide.chunk(positions.shape[1], 1), positions.to(wide.dtype).unbind(1), strict=True
        )
        samples = [
            F.grid_sample(part, p.flip(-1), "bilinear", "zeros", align_corners=True)
            for part, p in groups
        ]
    return torch.cat(samples, 1).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Bias | None) -> Tensor:
    """softmax(q kᵀ / √d + bias) v, (b, heads, h, w, d), in the dtype of `q`."""
    b, heads, h, w, _ = q.shape
    dtype = q.dtype
    q, k, v = at_least_float32(q), at_least_float32(k), at_least_float32(v)
    with full_precision(q):
        if bias is None:
            return _attend_columns(q, k, v, None).to(dtype)
        logits = b * heads * h * k.shape[2] * q.element_size()
        parts = [
            _attend_columns(q[:, :, :, start:stop], k, v, bias.columns(slice(start, stop)))
            for start, stop in row_chunks(w, 2 * (logits + bias.bytes_per_column))
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, 3)).to(dtype)


def _attend_columns(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    b, heads, h, w, d = q.shape
    if bias is not None:
        bias = reshape(bias.to(q.dtype), bias.shape[0], heads, h * w, k.shape[2])
    q = reshape(q, b, heads, h * w, d)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return reshape(out, b, heads, h, w, d)


def attention_weights(q: Tensor, k: Tensor, bias: Bias | None) -> Tensor:
    """The softmax alone, (b, heads, h·w, n), all at once."""
    q, k = at_least_float32(q), at_least_float32(k)
    with full_precision(q):
        logits = q.flatten(2, 3) @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if bias is not None:
            logits = logits + bias.columns(slice(None)).flatten(2, 3)
        return logits.softmax(-1)


def table_bias(table: Tensor, positions: Tensor, query_y: Tensor, query_x: Tensor) -> Bias:
    """Bilinear look-up in `table` (heads, ht, wt) at half the displacement, zeros outside."""
    heads, ht, _ = table.shape
    b, _, n, _ = positions.shape
    table = table.to(positions.dtype)
    # Fastest there, and what exported programs and other devices' determinism do without.
    if positions.device.type == "cpu" and not torch.compiler.is_exporting():
        return _table_by_pairs(table, positions, query_y, query_x)
    columns = _table_by_cells(table, positions, query_y, query_x)
    cells = ht + query_y.shape[0]
    return Bias(columns, b * heads * cells * n * positions.element_size())


def _table_by_pairs(table: Tensor, positions: Tensor, query_y: Tensor, query_x: Tensor) -> Bias:
    """Samples the table at every pair's displacement."""
    heads, ht, wt = table.shape
    b, groups, n, _ = positions.shape
    maps = table.view(1, groups, heads // groups, ht, wt).expand(b, -1, -1, -1, -1).flatten(0, 1)
    dy = query_y[:, None, None] - positions[..., 0].reshape(b * groups, 1, 1, n)

    def columns(part: slice) -> Tensor:
        dx = query_x[part, None] - positions[..., 1].reshape(b * groups, 1, 1, n)
        grid = torch.stack(torch.broadcast_tensors(dx, dy), -1).flatten(1, 2) / 2
        bias = F.grid_sample(maps, grid, "bilinear", "zeros", align_corners=True)
        return bias.view(b, heads, query_y.shape[0], -1, n)

    numbers = b * query_y.shape[0] * n * (heads + 4 * groups)
    return Bias(columns, numbers * positions.element_size())


def _table_by_cells(
    table: Tensor, positions: Tensor, query_y: Tensor, query_x: Tensor
) -> Callable[[slice], Tensor]:
    """Gathers every cell."""
    heads, ht, wt = table.shape
    b, groups, n, _ = positions.shape
    table = table.view(1, groups, heads // groups, ht, wt)
    rows = axis_lookup(query_y, positions[..., 0], ht)

    def columns(part: slice) -> Tensor:
        across = axis_lookup(query_x[part], positions[..., 1], wt)
        width = across.low.shape[2]
        # (b, groups, heads of a group, ht, columns · n), then rows of h in place of ht.
        shape = (b, groups, heads // groups, ht, width * n)
        flat = Lookup(*(reshape(field, b, groups, 1, 1, width * n) for field in across))
        values = _interpolate(table.expand(b, -1, -1, -1, -1), 4, flat, shape)
        down = Lookup(*(field[:, :, None, :, None] for field in rows))
        shape = (b, groups, heads // groups, query_y.shape[0], width, n)
        values = reshape(values, b, groups, heads // groups, ht, width, n)
        bias = _interpolate(values, 3, down, shape)
        return reshape(bias, b, heads, query_y.shape[0], width, n)

    return columns


def axis_lookup(query: Tensor, position: Tensor, cells: int) -> Lookup:
    """The cells around displacement (query − position)/2 ∈ [−1, 1] on an axis of `cells`."""
    displacement = (query[:, None] - position.contiguous()[:, :, None]) / 2
    at = (displacement + 1) / 2 * (cells - 1)
    floor = at.detach().floor()
    high_weight = at - floor
    low, high = floor.long(), floor.long() + 1
    return Lookup(
        low.clamp(0, cells - 1),
        high.clamp(0, cells - 1),
        (1 - high_weight) * ((low >= 0) & (low < cells)),
        high_weight * ((high >= 0) & (high < cells)),
    )


def _interpolate(source: Tensor, dim: int, lookup: Lookup, shape: tuple[int, ...]) -> Tensor:
    low = source.gather(dim, lookup.low.expand(shape)) * lookup.low_weight
    return low + source.gather(dim, lookup.high.expand(shape)) * lookup.high_weight


def log_bias(
    mlp: Callable[[Tensor], Tensor],
    hidden: int,
    positions: Tensor,
    query_y: Tensor,
    query_x: Tensor,
) -> Bias:
    """Continuous bias: `mlp` maps log-spaced (y, x) displacements (…, 2) to the heads of a group.

    A displacement is four times query − key, mapped by sign(u) · log2(|u| + 1) / log2(8).
    """
    b, groups, n, _ = positions.shape
    dy = _log_spaced(query_y[:, None] - positions[..., 0].contiguous()[..., None, :])

    def columns(part: slice) -> Tensor:
        dx = _log_spaced(query_x[part, None] - positions[..., 1].contiguous()[..., None, :])
        pair = torch.broadcast_tensors(dy[..., :, None, :], dx[..., None, :, :])
        bias = mlp(torch.stack(pair, -1)).permute(0, 1, 5, 2, 3, 4)
        return reshape(bias, b, groups * bias.shape[2], *bias.shape[3:])

    size = b * groups * query_y.shape[0] * n * (hidden + 2) * positions.element_size()
    return Bias(columns, size)


def _log_spaced(displacement: Tensor) -> Tensor:
    scaled = 4 * displacement
    return scaled.sign() * torch.log2(scaled.abs() + 1) / 3


def fixed_bias(
    table: Tensor,
    query_sides: tuple[int, int],
    key_sides: tuple[int, int],
    queries: tuple[int, int],
    keys: tuple[int, int],
    dtype: torch.dtype,
) -> Bias:
    """A learned bias for every pair, `table` (heads, queries, keys) at its own sides, row-major.

    At other sides, `queries` and `keys`, it is resized bilinearly over both (half-pixel centres).
    """
    heads, device = table.shape[0], table.device
    down, across, down_keys, across_keys = (
        bilinear_matrix(source, target, dtype, device)
        for source, target in zip((*query_sides, *key_sides), (*queries, *keys), strict=True)
    )
    values = table.to(dtype).view(heads, *query_sides, *key_sides)
    values = _resize(_resize(values, across_keys).transpose(3, 4), down_keys)
    values = _resize(values.permute(0, 2, 4, 3, 1), down).permute(0, 4, 2, 3, 1)

    def columns(part: slice) -> Tensor:
        bias = _resize(values, across[part]).permute(0, 1, 4, 2, 3)
        return reshape(bias, 1, heads, queries[0], bias.shape[2], keys[0] * keys[1])

    return Bias(columns, heads * queries[0] * query_sides[1] * keys[0] * keys[1] * dtype.itemsize)


def _resize(values: Tensor, weights: Tensor) -> Tensor:
    """The last axis put through `weights` (new, old)."""
    *rest, last = values.shape
    flat = F.linear(reshape(values, prod(rest), last), weights)
    return reshape(flat, *rest, weights.shape[0])


@cached_table
def bilinear_matrix(source: int, target: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(target, source): each target cell's weights in a bilinear resize with half-pixel centres."""
    centre = (torch.arange(target, device=device, dtype=dtype) + 0.5) * source / target - 0.5
    at = centre.clamp(0, source - 1)[:, None]
    return (1 - (at - torch.arange(source, device=device)).abs()).clamp(min=0)
