"""Attention inside windows that tile the map, with a relative position bias and optional shift.

Contract. `qkv` (b, h', w', 3, heads, d) of a map padded to whole windows of side s, at least. The
map is rolled by −shift on both axes, cut into windows of t = s² positions in row-major order, and
inside every window each head computes

    out = softmax(q kᵀ / √d + bias[head] + mask[window]) v

The result is rolled back and cropped to `size`. `bias` is (heads, t, t); the mask is 0 within a
region of the rolled map and −100 across (see `shift_mask`). Logits and softmax are float32 at
least; the result has the dtype of `qkv`.
"""

from jaxtyping import Float
from torch import Tensor

from foveal.kernels.operators import operator
from foveal.kernels.window_attention import reference
from foveal.kernels.window_attention.reference import relative_position_index, shift_mask

__all__ = ["relative_position_index", "shift_mask", "window_attention", "window_weights"]


def window_attention(
    qkv: Float[Tensor, "b hp wp 3 heads d"],
    bias: Float[Tensor, "heads t t"],
    size: tuple[int, int],
    window: int,
    shift: int = 0,
) -> Float[Tensor, "b h w heads d"]:
    """Attention inside windows of `window` x `window` positions; the module says what exactly."""
    return _attention(qkv, bias, size, window, shift)


_attention = operator(
    "window_attention(Tensor qkv, Tensor bias, SymInt[2] size, int window, int shift)",
    lambda qkv, _bias, size, *_: qkv.new_empty(qkv.shape[0], *size, *qkv.shape[4:]),
)(reference.window_attention)


def window_weights(
    qkv: Float[Tensor, "b hp wp 3 heads d"],
    bias: Float[Tensor, "heads t t"],
    window: int,
    shift: int = 0,
) -> Float[Tensor, "b windows heads t t"]:
    """The attention weights alone, window by window of the rolled map."""
    return reference.window_weights(qkv, bias, window, shift)
