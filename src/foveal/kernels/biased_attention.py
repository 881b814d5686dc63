"""softmax(Q K̂ᵀ + B) V with a position bias that is only ever made for some rows of queries."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.chunks import row_chunks
from foveal.kernels.operators import operator
from foveal.kernels.position_bias import BiasMLP, LogSpacedBias
from foveal.kernels.precision import full_precision
from foveal.kernels.shapes import laid_out


def biased_attention(
    query: Float[Tensor, "b n h w d"],
    key: Float[Tensor, "b n hp wp d"],
    value: Float[Tensor, "b n hp wp d"],
    bias: LogSpacedBias,
) -> Float[Tensor, "b n h w d"]:
    """Attention of n heads; query is scaled already, everything float32 or better."""
    return _attention(query, key, value, *bias.mlp, *bias[1:])


def _reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    pretrain_side: int,
    pretrain_cells: int | None,
) -> Tensor:
    log_spaced = LogSpacedBias(
        BiasMLP(weight1, bias1, weight2, bias2), pretrain_side, pretrain_cells
    )
    b, heads, height, width, _ = query.shape
    size, cells = (height, width), (key.shape[2], key.shape[3])
    key, value = key.flatten(2, 3), value.flatten(2, 3)
    row_bytes = b * heads * width * key.shape[2] * query.element_size()
    rows = []
    with full_precision(query):
        position_bias = log_spaced.at(size, cells)
        for start, stop in row_chunks(height, row_bytes):
            bias = position_bias.of_rows(start, stop).flatten(3).flatten(1, 2)[None]
            y = query[:, :, start:stop].flatten(2, 3)
            y = F.scaled_dot_product_attention(y, key, value, attn_mask=bias, scale=1.0)
            rows.append(laid_out(y).unflatten(2, (-1, width)))
    return rows[0] if len(rows) == 1 else torch.cat(rows, 2)


_attention = operator(
    "biased_attention(Tensor query, Tensor key, Tensor value, Tensor weight1, Tensor bias1, "
    "Tensor weight2, Tensor bias2, int pretrain_side, int? pretrain_cells)",
    lambda query, *_: query.new_empty(query.shape),
)(_reference)


def biased_attention_weights(
    query: Float[Tensor, "b n h w d"],
    key: Float[Tensor, "b n hp wp d"],
    bias: LogSpacedBias,
) -> Float[Tensor, "b n h w hp wp"]:
    """The weights that `biased_attention` gives its values, of all positions at once."""
    with full_precision(query):
        logits = torch.einsum("bnyxd,bnuvd->bnyxuv", query, key)
        position_bias = bias.at(query.shape[2:4], key.shape[2:4])
        logits = logits + position_bias.of_rows(0, query.shape[2])
        return logits.flatten(4).softmax(-1).view(logits.shape)
