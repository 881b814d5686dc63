"""Attention inside windows that tile the map, with a relative position bias and optional shift.

Contract. `qkv` (b, h, w, 3, heads, d), h and w whole multiples of the window side s; inside every
window, with t = s² positions in row-major order, each head computes

    out = softmax(q kᵀ / √d + bias[head] + mask[window]) v

`bias` is (heads, t, t); `mask` (windows, t, t) tells the regions of a rolled map apart, or is None.
Logits and softmax are float32 at least; the result has the dtype of `qkv`.
"""

from jaxtyping import Float
from torch import Tensor

from foveal.kernels.window_attention import reference
from foveal.kernels.window_attention.reference import relative_position_index, shift_mask

__all__ = ["relative_position_index", "shift_mask", "window_attention", "window_weights"]


def window_attention(
    qkv: Float[Tensor, "b h w 3 heads d"],
    bias: Float[Tensor, "heads t t"],
    mask: Float[Tensor, "windows t t"] | None,
    window: int,
) -> Float[Tensor, "b h w heads d"]:
    """Attention inside windows of `window` x `window` positions; the module says what exactly."""
    return reference.window_attention(qkv, bias, mask, window)


def window_weights(
    qkv: Float[Tensor, "b h w 3 heads d"],
    bias: Float[Tensor, "heads t t"],
    mask: Float[Tensor, "windows t t"] | None,
    window: int,
) -> Float[Tensor, "b windows heads t t"]:
    """The attention weights alone: the softmax of the same logits."""
    return reference.window_weights(qkv, bias, mask, window)
