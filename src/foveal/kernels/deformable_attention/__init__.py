"""Attention of every position to a few keys at continuous positions, with a bias by displacement.

Contract. `q` (b, heads, h, w, d), `k` and `v` (b, heads, n, d). `positions` (b, groups, n, 2) are
the keys' (y, x) and `query_y` (h), `query_x` (w) the queries', both normalised to [−1, 1] on the
map; group g owns heads g·heads/groups and following. `table` (heads, ht, wt) holds the bias of the
displacements (query − key)/2 from −1 to 1 and is read bilinearly, with zeros outside:

    out(i) = Σ_n softmax_n(q(i)·k(n) / √d + table[head]((query(i) − position(n)) / 2)) v(n)

A displacement u is at cell (u + 1)/2 · (ht − 1). The look-up is separable: rows depend on (query
row, key), columns on (query column, key). Positions, logits and softmax are float32 at least.
"""

from jaxtyping import Float
from torch import Tensor

from foveal.kernels.deformable_attention import reference
from foveal.kernels.deformable_attention.reference import (
    Bias,
    attend,
    attention_weights,
    fixed_bias,
    log_bias,
    table_bias,
)

__all__ = [
    "Bias",
    "attend",
    "attention_weights",
    "deformable_attention",
    "fixed_bias",
    "log_bias",
    "table_bias",
]


def deformable_attention(
    q: Float[Tensor, "b heads h w d"],
    k: Float[Tensor, "b heads n d"],
    v: Float[Tensor, "b heads n d"],
    positions: Float[Tensor, "b groups n 2"],
    table: Float[Tensor, "heads ht wt"],
    query_y: Float[Tensor, "h"],
    query_x: Float[Tensor, "w"],
) -> Float[Tensor, "b heads h w d"]:
    """Attention with a bias from a table; the module says what exactly."""
    return reference.attend(q, k, v, table_bias(table, positions, query_y, query_x))
