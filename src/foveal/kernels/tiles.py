"""Attention of tiles of queries to tiles of keys, by look-ups of whole tokens.

This is how window and neighbourhood attention are exported. Cutting a map into ⌈H/7⌉ tiles takes
views and sizes that hold for some H only as far as `torch.export` can tell, among them a single
tile; a look-up whose index is worked out from a tile's number holds for all. What has as many
entries as there are pairs is worked out for rows and columns apart and only then put together, by
axes of a length that does not depend on the map.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.shapes import reshape

# Position on an axis, of a tile's number and a place in it.
Position = Callable[[Tensor, Tensor], Tensor]


class Axis(NamedTuple):
    """How tiles lie along one axis of the map.

    Attributes:
        tiles: their number.
        query, key: position of a tile's i-th query and key, from tile and i.
        find: tile and i of the query at a position.
    """

    tiles: int
    query: Position
    key: Position
    find: Callable[[Tensor], tuple[Tensor, Tensor]]


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    size: tuple[int, int],
    axes: tuple[Axis, Axis],
    sides: tuple[int, int],
    bias: Callable[[tuple[Tensor, Tensor]], Tensor],
) -> Tensor:
    """softmax(q kᵀ / √d + bias) v tile by tile, (b, *size, heads, d).

    Args:
        q, k, v: (b, h, w, heads, d), of at least the size asked for.
        size: rows and columns of the result.
        axes: how the tiles lie, down and across.
        sides: queries and keys a side of a tile.
        bias: what is added to the logits, (tiles, heads, queries, keys), from each tile's place
            down and across.
    """
    b, heads, d = q.shape[0], q.shape[3], q.shape[4]
    tiles, area = axes[0].tiles * axes[1].tiles, sides[0] ** 2
    columns = axes[1].tiles
    queries = partial(_gather, tiles, columns, sides[0], [axis.query for axis in axes])
    keys = partial(_gather, tiles, columns, sides[1], [axis.key for axis in axes])
    # One tile too many: to some exporters, a length that is one when traced is a constant.
    place = divided(torch.arange(tiles + 1, device=q.device), columns)
    mask = reshape(bias(place).to(q.dtype), (tiles + 1) * heads, area, sides[1] ** 2)
    mask = mask[None, : tiles * heads]
    out = F.scaled_dot_product_attention(queries(q), keys(k), keys(v), attn_mask=mask)
    (down, y), (across, x) = (
        axis.find(torch.arange(n, device=q.device)) for axis, n in zip(axes, size, strict=True)
    )
    token = (down[:, None] * columns + across) * area + y[:, None] * sides[0] + x
    image = torch.arange(b, device=q.device)[:, None, None] * (tiles * area)
    out = reshape(out, b * tiles, heads, area, d).transpose(1, 2)
    tokens = F.embedding(image + token, reshape(out, b * tiles * area, heads * d))
    return reshape(tokens, b, size[0], size[1], heads, d)


def _gather(tiles: int, columns: int, side: int, position: Sequence[Position], x: Tensor) -> Tensor:
    """(b, tiles · heads, side², d) of a map (b, h, w, heads, d).

    Args:
        tiles, columns: how many tiles there are, and how many beside each other.
        side: places a side of a tile.
        position: of a place, down and across.
    """
    b, h, w, heads, d = x.shape
    number = torch.arange(tiles * side**2, device=x.device)
    place = number % side**2
    above, beside = divided(number // side**2, columns)
    token = position[0](above, place // side) * w + position[1](beside, place % side)
    image = torch.arange(b, device=x.device)[:, None] * (h * w)
    tokens = F.embedding(image + token, reshape(x, b * h * w, heads * d))
    tokens = reshape(tokens, b * tiles, side**2, heads, d).transpose(1, 2)
    return reshape(tokens, b, tiles * heads, side**2, d)


def divided(number: Tensor, divisor: int) -> tuple[Tensor, Tensor]:
    """Quotient and remainder by a number that is a symbol while exporting.

    ONNX's exporter knows no remainder of a tensor and a symbol.
    """
    quotient = number // divisor
    return quotient, number - quotient * divisor
