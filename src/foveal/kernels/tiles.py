"""Attention of tiles of queries to tiles of keys, by look-ups in flat tables alone.

This is how window and neighbourhood attention are exported. Cutting a map into ⌈H/7⌉ tiles takes
views and sizes that hold for some H only as far as `torch.export` can tell, among them a single
tile; a look-up whose index is worked out from consecutive numbers holds for all.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.shapes import reshape


class Axis(NamedTuple):
    """How tiles lie along one axis of the map.

    Attributes:
        tiles: their number.
        query, key: position of a tile's i-th query and key, from tile and i.
        find: tile and i of the query at a position.
    """

    tiles: int
    query: Callable[[Tensor, Tensor], Tensor]
    key: Callable[[Tensor, Tensor], Tensor]
    find: Callable[[Tensor], tuple[Tensor, Tensor]]


class Pair(NamedTuple):
    """Tile, head, and the places of query and key in it; each (tiles · heads · queries · keys)."""

    tile: tuple[Tensor, Tensor]
    head: Tensor
    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: tuple[int, int],
    axes: tuple[Axis, Axis],
    sides: tuple[int, int],
    bias: Callable[[Pair], Tensor],
) -> Tensor:
    """softmax(q kᵀ / √d + bias) v tile by tile, (b, *size, heads, d).

    Args:
        q, k, v: (b, h, w, heads, d), of at least the size asked for.
        size: rows and columns of the result.
        axes: how the tiles lie, down and across.
        sides: queries and keys a side of a tile.
        bias: what is added to the logits.
    """
    b, heads, d = q.shape[0], q.shape[3], q.shape[4]
    count = axes[0].tiles * axes[1].tiles * heads
    queries, keys = (_gather(x, axes, side, x is q) for x, side in ((q, sides[0]), (k, sides[1])))
    values = _gather(v, axes, sides[1], False)
    mask = bias(_pairs(axes[1].tiles, count, heads, sides, q.device))
    mask = reshape(mask, 1, count, sides[0] ** 2, sides[1] ** 2)
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask.to(q.dtype))
    rows = reshape(out, b * count * sides[0] ** 2, d)
    (ty, y), (tx, x) = (
        axis.find(torch.arange(n, device=q.device)) for axis, n in zip(axes, size, strict=True)
    )
    tile = ty[:, None] * axes[1].tiles + tx
    place = y[:, None] * sides[0] + x
    head = torch.arange(heads, device=q.device)
    index = (tile[:, :, None] * heads + head) * sides[0] ** 2 + place[:, :, None]
    batch = torch.arange(b, device=q.device)[:, None, None, None] * (count * sides[0] ** 2)
    return F.embedding(batch + index, rows)


def _gather(x: Tensor, axes: tuple[Axis, Axis], side: int, queries: bool) -> Tensor:
    """(b, tiles · heads, side², d) of a map (b, h, w, heads, d)."""
    b, h, w, heads, d = x.shape
    count = axes[0].tiles * axes[1].tiles * heads
    number = torch.arange(count * side**2, device=x.device)
    place, head, tile = number % side**2, number // side**2 % heads, number // (side**2 * heads)
    down, across = (axis.query if queries else axis.key for axis in axes)
    above, beside = divided(tile, axes[1].tiles)
    row, column = down(above, place // side), across(beside, place % side)
    index = (row * w + column) * heads + head
    batch = torch.arange(b, device=x.device)[:, None] * (h * w * heads)
    tokens = F.embedding(batch + index, reshape(x, b * h * w * heads, d))
    return reshape(tokens, b, count, side**2, d)


def _pairs(
    columns: int, count: int, heads: int, sides: tuple[int, int], device: torch.device
) -> Pair:
    queries, keys = sides[0] ** 2, sides[1] ** 2
    number = torch.arange(count * queries * keys, device=device)
    key, query = number % keys, number // keys % queries
    head, tile = number // (keys * queries) % heads, number // (keys * queries * heads)
    return Pair(
        divided(tile, columns),
        head,
        (query // sides[0], query % sides[0]),
        (key // sides[1], key % sides[1]),
    )


def divided(number: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder by a number that is a symbol while exporting.

    ONNX's exporter knows no remainder of a tensor and a symbol.
    """
    quotient = number // divisor
    return quotient, number - quotient * divisor
