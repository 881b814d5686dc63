"""Aggregated attention: one softmax over a pixel's window and the pooled map (TransNeXt).

Per head, for query position i, window cells j and pooled cells p, N(i) the number of keys in sight:

    q̂ = q/‖q‖,  k̂ = k/‖k‖,  Q(i) = (q̂(i) + QE) · scale · log N(i)
    A = softmax( [ Q(i)·k̂(j) + b_local(j) , Q(i)·k̂_pool(p) + B(i, p) ] ),  −∞ outside the map
    y(i) = Σ_j (A(i, j) + q̂(i)·T(j) + t_b(j)) v(j) + Σ_p A(i, p) v_pool(p)

Window cells are in row-major order; v is 0 outside the map.
"""

from jaxtyping import Float
from torch import Tensor

from foveal.kernels.aggregated_attention import fused, reference
from foveal.kernels.aggregated_attention.reference import AttentionTerms, Weights
from foveal.kernels.dispatch import Backend, dispatch, plain
from foveal.kernels.operators import operator
from foveal.kernels.position_bias import LogSpacedBias

__all__ = ["AttentionTerms", "Weights", "aggregated_attention", "aggregated_attention_weights"]


def aggregated_attention(
    query: Float[Tensor, "b h w n d"],
    key: Float[Tensor, "b h w n d"],
    value: Float[Tensor, "b h w n d"],
    pooled_key: Float[Tensor, "b hp wp n d"],
    pooled_value: Float[Tensor, "b hp wp n d"],
    terms: AttentionTerms,
    bias: LogSpacedBias,
    *,
    backend: str = "auto",
) -> Float[Tensor, "b h w n d"]:
    """Attention to the window around each position and to the pooled map, n heads of d channels.

    Args:
        query, key, value: of every position, not normalised.
        pooled_key, pooled_value: of every pooled cell.
        terms: what is learned beside them, float32 or better; the window follows from it.
        bias: B, float32 or better.
        backend: "auto", "triton" or "reference".

    Returns:
        y in query's dtype. Everything between is computed in float32 or better.
    """
    attended = (query, key, value, pooled_key, pooled_value)
    args = (*attended, *terms, *bias.mlp, *bias[1:])
    return dispatch("aggregated_attention", _LADDER, backend, args)


_attention = operator(
    "aggregated_attention(Tensor query, Tensor key, Tensor value, Tensor pooled_key, "
    "Tensor pooled_value, Tensor query_embedding, Tensor scale, Tensor local_bias, Tensor tokens, "
    "Tensor token_bias, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, "
    "int pretrain_side, int? pretrain_cells)",
    lambda query, *_: query.new_empty(query.shape),
)(reference.attention_of_tensors)

_LADDER = (Backend("triton", fused.objection, fused.attention), plain(_attention))


def aggregated_attention_weights(
    query: Float[Tensor, "b h w n d"],
    key: Float[Tensor, "b h w n d"],
    pooled_key: Float[Tensor, "b hp wp n d"],
    terms: AttentionTerms,
    bias: LogSpacedBias,
) -> Weights:
    """The weights that `aggregated_attention` gives its values, of all positions at once."""
    return reference.weights(query, key, pooled_key, terms, bias)
