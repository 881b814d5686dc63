"""Window attention in plain PyTorch."""

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.precision import at_least_float32, full_precision
from foveal.kernels.tables import table


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
    position = torch.arange(size, device=device)
    region = (position >= size - window).long() + (position >= size - shift).long()
    return region.view(size // window, window)


def window_attention(qkv: Tensor, bias: Tensor, mask: Tensor | None, window: int) -> Tensor:
    b, h, w, _, heads, d = qkv.shape
    rows, columns = h // window, w // window
    parts = _partition(at_least_float32(qkv), window).unbind(0)
    with full_precision(qkv):
        if mask is None:
            q, k, v = (part.flatten(0, 1) for part in parts)
            logit_bias = bias[None]
        else:
            q, k, v = (part.flatten(1, 2) for part in parts)
            logit_bias = (bias + mask[:, None]).flatten(0, 1)[None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=logit_bias.to(q.dtype))
    out = out.reshape(b, rows, columns, heads, window, window, d).permute(0, 1, 4, 2, 5, 3, 6)
    return out.reshape(b, h, w, heads, d).to(qkv.dtype)


def window_weights(qkv: Tensor, bias: Tensor, mask: Tensor | None, window: int) -> Tensor:
    q, k, _ = _partition(at_least_float32(qkv), window).unbind(0)
    with full_precision(qkv):
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + bias
        return (logits if mask is None else logits + mask[:, None]).softmax(-1)


def _partition(qkv: Tensor, window: int) -> Tensor:
    """(3, b, windows, heads, t, d) from (b, h, w, 3, heads, d)."""
    b, h, w, _, heads, d = qkv.shape
    tiles = qkv.view(b, h // window, window, w // window, window, 3, heads, d)
    tiles = tiles.permute(5, 0, 1, 3, 6, 2, 4, 7)
    return tiles.reshape(3, b, (h // window) * (w // window), heads, window * window, d)
