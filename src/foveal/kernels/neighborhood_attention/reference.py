"""Neighbourhood attention in plain PyTorch: tiles of queries, each with the keys all of it needs.

The neighbourhoods of s consecutive positions lie within 2s − 1 positions. So the map is cut into
tiles of s x s queries, every tile attends densely to a window of (2s − 1)² keys, and −∞ removes
what is not in a query's own neighbourhood. The table of biases carries that −∞ in an extra row and
column, so that two look-ups, one an axis, give bias and mask at once.

On a small map most of a window is the whole map anyway. There, where no gradients are asked for,
every position attends to the whole map under that mask, which saves cutting it up.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.chunks import row_chunks
from foveal.kernels.precision import at_least_float32, full_precision
from foveal.kernels.shapes import at_least
from foveal.kernels.tables import kept, table
from foveal.kernels.tiles import Axis, tiled_attention


@table
def neighborhood_start(size: int, kernel: int, device: torch.device) -> Tensor:
    """(size): the first neighbour of each position."""
    return (torch.arange(size, device=device) - kernel // 2).clamp(min=0).clamp(max=size - kernel)


@table
def query_index(size: int, kernel: int, device: torch.device) -> Tensor:
    """(tiles, kernel): the positions of each tile; past the end, the last one again."""
    tiles = (size + kernel - 1) // kernel
    return torch.arange(tiles * kernel, device=device).clamp(max=size - 1).view(tiles, kernel)


@table
def key_index(size: int, kernel: int, device: torch.device) -> Tensor:
    """(tiles, 2·kernel − 1): the positions each tile's queries may attend to."""
    span = 2 * kernel - 1
    tiles = (size + kernel - 1) // kernel
    start = torch.arange(tiles, device=device) * kernel - kernel // 2
    start = start.clamp(max=size - span).clamp(min=0)
    return start[:, None] + torch.arange(span, device=device)


@table
def whole_bias_index(height: int, width: int, kernel: int, device: torch.device) -> Tensor:
    """(queries · keys): where the bias of any two positions of the map is in the padded table."""
    rows, columns = (_pair_index(n, kernel, device) for n in (height, width))
    return (rows[:, None, :, None] * (2 * kernel) + columns[None, :, None, :]).flatten()


def _pair_index(size: int, kernel: int, device: torch.device) -> Tensor:
    """(size, size): key − query + kernel − 1 for neighbours, else 2·kernel − 1."""
    start = neighborhood_start(size, kernel, device)[:, None]
    at = torch.arange(size, device=device)
    inside = (at >= start) & (at < start + kernel)
    return torch.where(inside, at - at[:, None] + kernel - 1, 2 * kernel - 1)


@table
def bias_index(size: int, kernel: int, device: torch.device) -> Tensor:
    """(tiles, kernel, 2·kernel − 1): key − query + kernel − 1 for neighbours, else 2·kernel − 1."""
    query = query_index(size, kernel, device)
    start = neighborhood_start(size, kernel, device)[query][:, :, None]
    key = key_index(size, kernel, device)[:, None, :]
    inside = (key >= start) & (key < start + kernel)
    return torch.where(inside, key - query[:, :, None] + kernel - 1, 2 * kernel - 1)


def neighborhood_attention(
    q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, size: tuple[int, int], kernel: int
) -> Tensor:
    """The contract of the package, tile by tile of queries."""
    dtype = q.dtype
    q, k, v = at_least_float32(q), at_least_float32(k), at_least_float32(v)
    with full_precision(q):
        if torch.compiler.is_exporting():
            return _by_lookup(q, k, v, _padded(position_bias, q), size, kernel).to(dtype)
        attend = _whole if _is_small(q, kernel) and not torch.is_grad_enabled() else _by_views
        return attend(q, k, v, position_bias, kernel)[:, : size[0], : size[1]].to(dtype)


def _padded(position_bias: Tensor, q: Tensor) -> Tensor:
    """The table in the precision of `q`, with the row and column of −∞."""
    return F.pad(position_bias.to(q.dtype), (0, 1, 0, 1), value=float("-inf"))


def _is_small(q: Tensor, kernel: int) -> bool:
    """Whether the map has little more positions than the window of one tile."""
    return q.shape[1] * q.shape[2] <= min(2 * (2 * kernel - 1) ** 2, 400)


def _whole(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kernel: int) -> Tensor:
    _, h, w, heads, _ = q.shape

    def look_up() -> Tensor:
        index = whole_bias_index(h, w, kernel, q.device)
        mask = _padded(bias, q).flatten(1).index_select(1, index)
        return mask.view(1, heads, h * w, h * w)

    mask = kept(bias, ("every pair", h, w, q.dtype), look_up)
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return out.transpose(1, 2).unflatten(1, (h, w))


def _by_views(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, kernel: int) -> Tensor:
    b, h, w, heads, _ = q.shape
    device = q.device
    queries = query_index(h, kernel, device)
    keys = key_index(h, kernel, device).clamp(max=h - 1)
    biases = bias_index(h, kernel, device)

    columns = (w + kernel - 1) // kernel
    logits = b * columns * heads * kernel**2 * (2 * kernel - 1) ** 2 * q.element_size()
    parts = [
        _attend(
            (q, k, v),
            (queries[a:z], keys[a:z]),
            kept(
                bias,
                ("tiles", h, w, a, z, q.dtype),
                partial(_tile_masks, _padded(bias, q), biases[a:z], w),
            ),
        )
        for a, z in row_chunks(queries.shape[0], logits)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _tile_masks(bias: Tensor, y_bias: Tensor, width: int) -> Tensor:
    """(1, tiles·heads, kernel², span²): bias and mask of some rows of tiles, from the padded table.

    Args:
        y_bias: of `bias_index`, those rows.
    """
    ny, kernel, span = y_bias.shape
    heads = bias.shape[0]
    x_bias = bias_index(width, kernel, bias.device)
    nx = x_bias.shape[0]
    mask = bias.index_select(1, y_bias.flatten()).index_select(2, x_bias.flatten())
    mask = mask.view(heads, ny, kernel, span, nx, kernel, span).permute(1, 4, 0, 2, 5, 3, 6)
    return mask.reshape(1, ny * nx * heads, kernel**2, span**2)


def _attend(qkv: tuple[Tensor, ...], rows: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
    """The output for some rows of tiles, (b, rows·kernel, columns·kernel, heads, d)."""
    q, k, v = qkv
    b, _, w, heads, d = q.shape
    y_query, y_key = rows
    ny, kernel = y_query.shape
    x_query = query_index(w, kernel, q.device)
    x_key = key_index(w, kernel, q.device).clamp(max=w - 1)
    nx = x_query.shape[0]
    out = F.scaled_dot_product_attention(
        _tiles(q, y_query, x_query),
        _tiles(k, y_key, x_key),
        _tiles(v, y_key, x_key),
        attn_mask=mask,
    )
    out = out.reshape(b, ny, nx, heads, kernel, kernel, d).permute(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(b, ny * kernel, nx * kernel, heads, d)


def _tiles(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(b, tiles·heads, positions of a tile, d) from (b, h, w, heads, d)."""
    b, _, _, heads, d = x.shape
    (ny, sy), (nx, sx) = rows.shape, columns.shape
    x = x.index_select(1, rows.flatten()).index_select(2, columns.flatten())
    x = x.view(b, ny, sy, nx, sx, heads, d).permute(0, 1, 3, 5, 2, 4, 6)
    return x.reshape(b, ny * nx * heads, sy * sx, d)


def _by_lookup(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, size: tuple[int, int], kernel: int
) -> Tensor:
    span, m = 2 * kernel - 1, 2 * kernel
    padded = tuple(at_least(n, kernel) for n in size)
    axes = (_axis(size[0], padded[0], kernel), _axis(size[1], padded[1], kernel))

    def mask(place: tuple[Tensor, Tensor]) -> Tensor:
        i = torch.arange(kernel, device=q.device)[:, None]
        j = torch.arange(span, device=q.device)
        cells: list[Tensor] = []
        for axis, n, tile in zip(axes, padded, place, strict=True):
            query, key = axis.query(tile[:, None, None], i), axis.key(tile[:, None, None], j)
            start = (query - kernel // 2).clamp(min=0).clamp(max=n - kernel)
            inside = (key >= start) & (key < start + kernel)
            cells.append(torch.where(inside, key - query + kernel - 1, m - 1))
        down, across = cells
        index = down[:, :, None, :, None] * m + across[:, None, :, None, :]
        return F.embedding(index, bias.flatten(1).t()).movedim(-1, 1)

    return tiled_attention(q, k, v, size, axes, (kernel, span), mask)


def _axis(size: int, padded: int, kernel: int) -> Axis:
    span = 2 * kernel - 1
    # As many as the padded side has, by a length that compilers can simplify.
    tiles = (size + kernel - 1) // kernel

    def query(tile: Tensor, i: Tensor) -> Tensor:
        return (tile * kernel + i).clamp(max=padded - 1)

    def key(tile: Tensor, j: Tensor) -> Tensor:
        return (tile * kernel - kernel // 2).clamp(max=padded - span).clamp(min=0) + j

    def find(at: Tensor) -> tuple[Tensor, Tensor]:
        return at // kernel, at % kernel

    return Axis(tiles, query, key, find)


def neighborhood_weights(q: Tensor, k: Tensor, position_bias: Tensor, kernel: int) -> Tensor:
    """The softmax alone, for readings."""
    b, h, w, heads, d = q.shape
    q, k = at_least_float32(q), at_least_float32(k)
    reach = torch.arange(kernel, device=q.device)
    rows = neighborhood_start(h, kernel, q.device)[:, None] + reach
    columns = neighborhood_start(w, kernel, q.device)[:, None] + reach
    dy = rows - torch.arange(h, device=q.device)[:, None] + kernel - 1
    dx = columns - torch.arange(w, device=q.device)[:, None] + kernel - 1
    near = k.index_select(1, rows.flatten()).index_select(2, columns.flatten())
    near = near.view(b, h, kernel, w, kernel, heads, d).permute(0, 5, 1, 3, 2, 4, 6)
    bias = position_bias.index_select(1, dy.flatten()).index_select(2, dx.flatten())
    bias = bias.view(heads, h, kernel, w, kernel).permute(0, 1, 3, 2, 4)
    with full_precision(q):
        query = q.permute(0, 3, 1, 2, 4)[..., None, None, :] * d**-0.5
        logits = (query * near).sum(-1) + bias
        return logits.flatten(4).softmax(-1)
