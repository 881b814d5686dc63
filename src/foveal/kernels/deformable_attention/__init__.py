"""Attention of every position to a few keys at continuous positions, with a bias by displacement.

Contract. `q` (b, heads, h, w, d), `k` and `v` (b, heads, n, d). `positions` (b, groups, n, 2) are
the keys' (y, x) and `query_y` (h), `query_x` (w) the queries', both normalised to [−1, 1] on the
map; group g owns heads g·heads/groups and following. `table` (heads, ht, wt) holds the bias of the
displacements (query − key)/2 from −1 to 1 and is read bilinearly, with zeros outside:

    out(i) = Σ_n softmax_n(q(i)·k(n) / √d + table[head]((query(i) − position(n)) / 2)) v(n)

A displacement u is at cell (u + 1)/2 · (ht − 1). The look-up is separable: rows depend on (query
row, key), columns on (query column, key). Keys and values are projections of the map at the
positions, read bilinearly with zeros outside (`deformable_samples`); −1 and 1 are the centres of
its first and last cells. Positions, samples, logits and softmax are float32 at least.
"""

from jaxtyping import Float
from torch import Tensor

from foveal.kernels.deformable_attention import fused, reference
from foveal.kernels.deformable_attention.reference import (
    Bias,
    attend,
    attention_weights,
    fixed_bias,
    log_bias,
    table_bias,
)
from foveal.kernels.dispatch import Backend, dispatch, plain
from foveal.kernels.operators import operator

__all__ = [
    "Bias",
    "attend",
    "attention_weights",
    "deformable_attention",
    "deformable_samples",
    "fixed_bias",
    "log_bias",
    "table_bias",
]


def deformable_samples(
    x: Float[Tensor, "b c h w"], positions: Float[Tensor, "b groups hk wk 2"]
) -> Float[Tensor, "b c hk wk"]:
    """The map at the keys' positions, each group's for its own channels, in the map's dtype."""
    return _samples(x, positions)


_samples = operator(
    "deformable_samples(Tensor x, Tensor positions)",
    lambda x, positions: x.new_empty(*x.shape[:2], *positions.shape[2:4]),
)(reference.sample)


def deformable_attention(
    q: Float[Tensor, "b heads h w d"],
    k: Float[Tensor, "b heads n d"],
    v: Float[Tensor, "b heads n d"],
    positions: Float[Tensor, "b groups n 2"],
    table: Float[Tensor, "heads ht wt"],
    query_y: Float[Tensor, "h"],
    query_x: Float[Tensor, "w"],
    *,
    corner_aligned: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "b heads h w d"]:
    """Attention with a bias from a table; the module says what exactly.

    Args:
        corner_aligned: a promise that the queries are evenly spaced from −1 to 1 on both axes, or
            at 0 if there is one. A table of 2h − 1 by 2w − 1 cells is read faster then.
    """
    args = (q, k, v, positions, table, query_y, query_x, corner_aligned)
    return dispatch("deformable_attention", _LADDER, backend, args)


_attention = operator(
    "deformable_attention(Tensor q, Tensor k, Tensor v, Tensor positions, Tensor table, "
    "Tensor query_y, Tensor query_x)",
    lambda q, *_: q.new_empty(q.shape),
)(reference.attention)

_LADDER = (
    Backend("triton", fused.objection, fused.deformable_attention),
    # The reference computes every weight.
    plain(lambda *args: _attention(*args[:7])),
)
