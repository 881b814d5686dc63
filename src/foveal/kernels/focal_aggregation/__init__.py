"""FocalNet's aggregation: contexts at growing radii, of which each position takes what it gates.

Contract. `context` z⁰ (b, h, w, c), L ≥ 0 depthwise filters W^l of odd size, and gates g (b, h, w,
L + 1), unbounded:

    z^l = GELU(W^l ∗ z^{l−1}),   z^{L+1} = GELU(mean over all positions of z^L)
    out = Σ_{l=1}^{L+1} g^l ⊙ z^l, divided by L + 1 if `normalize`

The convolutions have stride 1, zeros around the map and steps of `dilation`. `context` and `gates`
may be slices of a wider tensor's channels. The result has the dtype of `context`.
"""

from jaxtyping import Float
from torch import Tensor

from foveal.kernels.dispatch import Backend, dispatch, plain
from foveal.kernels.focal_aggregation import fused, onednn, reference
from foveal.kernels.focal_aggregation.reference import focal_contexts, gated_sum

__all__ = ["focal_aggregation", "focal_contexts", "gated_sum"]

_LADDER = (
    Backend("triton", fused.objection, fused.focal_aggregation),
    Backend("onednn", onednn.objection, onednn.focal_aggregation, "cpu"),
    plain(reference.focal_aggregation),
)


def focal_aggregation(
    context: Float[Tensor, "b h w c"],
    gates: Float[Tensor, "b h w levels"],
    *weights: Float[Tensor, "c 1 _ _"],
    dilation: int = 1,
    normalize: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "b h w c"]:
    """Σ g^l ⊙ z^l, the contexts z^l from a chain of depthwise convolutions and from their mean."""
    args = (context, gates, weights, dilation, normalize)
    return dispatch("focal_aggregation", _LADDER, backend, args)
