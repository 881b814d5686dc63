"""Window attention in plain PyTorch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.precision import at_least_float32, full_precision
from foveal.kernels.shapes import reshape
from foveal.kernels.tables import table
from foveal.kernels.tiles import Axis, divided, tiled_attention


@table
def relative_position_index(window: int, device: torch.device) -> Tensor:
    """(t, t): row of the bias table for query i and key j, by their displacement i − j."""
    side = torch.arange(window, device=device)
    y, x = (axis.flatten() for axis in torch.meshgrid(side, side, indexing="ij"))
    dy, dx = y[:, None] - y, x[:, None] - x
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


@table
def shift_mask(
    height: int, width: int, window: int, shift: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(windows, t, t): −100 between positions that only the roll has brought together, else 0."""
    row = _regions(height, window, shift, device)[:, None, :, None]
    column = _regions(width, window, shift, device)[None, :, None, :]
    region = (3 * row + column).flatten(2).flatten(0, 1)
    return (region[:, :, None] != region[:, None, :]).to(dtype) * -100


def _regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """(windows, window): 0 before the last window, 1 in it, 2 where the roll has wrapped around."""
    position = torch.arange(size, device=device).view(size // window, window)
    return _region(position, size, window, shift)


def _region(position: Tensor, size: int, window: int, shift: int) -> Tensor:
    return (position >= size - window).long() + (position >= size - shift).long()


def window_attention(
    qkv: Tensor, bias: Tensor, size: tuple[int, int], window: int, shift: int
) -> Tensor:
    """The contract of the package, all windows at once."""
    dtype = qkv.dtype
    qkv, bias = at_least_float32(qkv), at_least_float32(bias)
    with full_precision(qkv):
        if torch.compiler.is_exporting():
            return _by_lookup(qkv, bias, size, window, shift).to(dtype)
        out = _by_views(qkv, bias, window, shift)
    if shift:
        out = out.roll((shift, shift), (1, 2))
    return out[:, : size[0], : size[1]].to(dtype)


def _by_views(qkv: Tensor, bias: Tensor, window: int, shift: int) -> Tensor:
    """The rolled and padded map's output."""
    b, h, w, _, heads, d = qkv.shape
    parts = _partition(qkv, window, shift).unbind(0)
    if shift:
        q, k, v = (part.flatten(1, 2) for part in parts)
        mask = shift_mask(h, w, window, shift, bias.dtype, bias.device)
        bias = (bias + mask[:, None]).flatten(0, 1)[None]
    else:
        q, k, v = (part.flatten(0, 1) for part in parts)
        bias = bias[None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    out = out.reshape(b, h // window, w // window, heads, window, window, d)
    return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, h, w, heads, d)


def _by_lookup(qkv: Tensor, bias: Tensor, size: tuple[int, int], window: int, shift: int) -> Tensor:
    q, k, v = qkv.unbind(3)
    axes = (_axis(size[0], window, shift), _axis(size[1], window, shift))

    def mask(place: tuple[Tensor, Tensor]) -> Tensor:
        i = torch.arange(window, device=qkv.device)
        row, column = (
            _region(tile[:, None] * window + i, axis.tiles * window, window, shift)
            for axis, tile in zip(axes, place, strict=True)
        )
        region = reshape(3 * row[:, :, None] + column[:, None, :], row.shape[0], window**2)
        apart = (region[:, :, None] != region[:, None, :]) & (shift > 0)
        return bias + torch.where(apart, -100.0, 0.0)[:, None]

    return tiled_attention(q, k, v, size, axes, (window, window), mask)


def _axis(size: int, window: int, shift: int) -> Axis:
    tiles = (size + window - 1) // window

    def position(tile: Tensor, i: Tensor) -> Tensor:
        return divided(tile * window + i + shift, tiles * window)[1]

    def find(at: Tensor) -> tuple[Tensor, Tensor]:
        rolled = divided(at - shift, tiles * window)[1]
        return rolled // window, rolled % window

    return Axis(tiles, position, position, find)


def window_weights(qkv: Tensor, bias: Tensor, window: int, shift: int) -> Tensor:
    """The softmax alone, for readings."""
    h, w = qkv.shape[1:3]
    q, k, _ = _partition(at_least_float32(qkv), window, shift).unbind(0)
    with full_precision(qkv):
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + at_least_float32(bias)
        if shift:
            logits = logits + shift_mask(h, w, window, shift, q.dtype, q.device)[:, None]
        return logits.softmax(-1)


def _partition(qkv: Tensor, window: int, shift: int) -> Tensor:
    """(3, b, windows, heads, t, d) from (b, h, w, 3, heads, d)."""
    b, h, w, _, heads, d = qkv.shape
    if shift:
        qkv = qkv.roll((-shift, -shift), (1, 2))
    tiles = qkv.reshape(b, h // window, window, w // window, window, 3, heads, d)
    tiles = tiles.permute(5, 0, 1, 3, 6, 2, 4, 7)
    return tiles.reshape(3, b, (h // window) * (w // window), heads, window * window, d)
