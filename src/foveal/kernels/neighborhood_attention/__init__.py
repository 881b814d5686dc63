"""Attention of every position to the k x k positions around it, with a relative position bias.

Contract. `q`, `k`, `v` (b, h', w', heads, d) of a map padded to the odd kernel side s, at least;
`position_bias` (heads, 2s − 1, 2s − 1). Along each axis the neighbourhood of position i starts at
clip(i − s//2, 0, max(size, s) − s): it is pushed inward at the border, so it always has s
positions. With N(i) the s² neighbours of i, for all i within `size`,

    out(i) = Σ_{j ∈ N(i)} softmax_j(q(i)·k(j) / √d + position_bias[j − i + s − 1]) v(j)

Logits and softmax are float32 at least; the result has the dtype of `q`.
"""

from jaxtyping import Float
from torch import Tensor

from foveal.kernels.dispatch import Backend, dispatch, plain
from foveal.kernels.neighborhood_attention import fused, reference
from foveal.kernels.operators import operator

_attention = operator(
    "neighborhood_attention(Tensor q, Tensor k, Tensor v, Tensor position_bias, "
    "SymInt[2] size, int kernel)",
    lambda q, _k, _v, _bias, size, _: q.new_empty(q.shape[0], *size, *q.shape[3:]),
)(reference.neighborhood_attention)

_LADDER = (
    Backend("triton", fused.objection, fused.neighborhood_attention),
    plain(_attention),
)


def neighborhood_attention(
    q: Float[Tensor, "b hp wp heads d"],
    k: Float[Tensor, "b hp wp heads d"],
    v: Float[Tensor, "b hp wp heads d"],
    position_bias: Float[Tensor, "heads m m"],
    size: tuple[int, int],
    kernel: int,
    *,
    backend: str = "auto",
) -> Float[Tensor, "b h w heads d"]:
    """Attention to the `kernel` x `kernel` neighbours; the module says what exactly."""
    args = (q, k, v, position_bias, size, kernel)
    return dispatch("neighborhood_attention", _LADDER, backend, args)


def neighborhood_weights(
    q: Float[Tensor, "b hp wp heads d"],
    k: Float[Tensor, "b hp wp heads d"],
    position_bias: Float[Tensor, "heads m m"],
    kernel: int,
) -> Float[Tensor, "b heads h w s2"]:
    """The attention weights alone, over the neighbours in row-major order. Takes much memory."""
    return reference.neighborhood_weights(q, k, position_bias, kernel)
