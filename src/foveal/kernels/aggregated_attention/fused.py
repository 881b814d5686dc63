"""Aggregated attention's kernels as an operator of PyTorch: what it takes, shapes, gradients."""

from functools import reduce
from math import prod

import torch
from torch import Tensor, library

from foveal.kernels.dispatch import triton_objection
from foveal.kernels.position_bias import BiasMLP, LogSpacedBias, LookedUpBias
from foveal.kernels.precision import full_precision

# Up to here the bias of all pairs is made in memory, from where kernels read it fastest; beyond
# they look it up in its table.
DENSE_BYTES = 16 * 2**20

MOST_CHANNELS, MOST_CELLS = 128, 25


def objection(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    query_embedding: Tensor,
    scale: Tensor,
    local_bias: Tensor,
    *rest: Tensor | int | None,
) -> str | None:
    """Why the kernels cannot run these arguments, or None."""
    if query.shape[-1] > MOST_CHANNELS:
        return f"heads have {MOST_CHANNELS} channels at most, not {query.shape[-1]}"
    if local_bias.shape[-1] > MOST_CELLS:
        return f"windows have {MOST_CELLS} cells at most, not {local_bias.shape[-1]}"
    others = (x for x in rest if isinstance(x, Tensor))
    attended = (query, key, value, pooled_key, pooled_value)
    return triton_objection(*attended, query_embedding, scale, local_bias, *others)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    query_embedding: Tensor,
    scale: Tensor,
    local_bias: Tensor,
    tokens: Tensor,
    token_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    pretrain_side: int,
    pretrain_cells: int | None,
) -> Tensor:
    """The contract of the package: the position bias in plain PyTorch, the rest in kernels."""
    provider = LogSpacedBias(BiasMLP(weight1, bias1, weight2, bias2), pretrain_side, pretrain_cells)
    maps = (query, key, value, pooled_key, pooled_value)
    with full_precision(query):
        bias = _readable_bias(provider, query, pooled_key)
        dtype = reduce(torch.promote_types, (x.dtype for x in maps))
        terms = (query_embedding, scale, local_bias, tokens, token_bias)
        out, _ = attend(*(x.to(dtype) for x in maps), *terms, *bias)
    return out.to(query.dtype)


def _readable_bias(
    provider: LogSpacedBias, query: Tensor, pooled_key: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """B of all pairs and no indices, or its table and where each row and column finds theirs."""
    size, cells = query.shape[1:3], pooled_key.shape[1:3]
    bias = provider.at(size, cells)
    if isinstance(bias, LookedUpBias):
        pairs = query.shape[3] * prod(size) * prod(cells)
        if pairs * bias.values.element_size() > DENSE_BYTES:
            return bias
    return bias.of_rows(0, size[0]), None, None


@library.custom_op("foveal::aggregated_attention_triton", mutates_args=())
def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    query_embedding: Tensor,
    scale: Tensor,
    local_bias: Tensor,
    tokens: Tensor,
    token_bias: Tensor,
    bias: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y, and of every softmax what the backward pass needs.

    Args:
        query, …, token_bias: as in the package's contract, the first five of one dtype.
        bias: B as (heads, h, w, hp, wp), or a table (r, c, heads).
        rows, columns: with a table, where queries (first axis) and cells (second) find theirs: no
            cell finds the same entry for two queries of an axis.
    """
    from foveal.kernels.aggregated_attention import triton

    return triton.forward(
        (query, key, value, pooled_key, pooled_value, query_embedding, scale, local_bias, tokens,
         token_bias, bias, rows, columns)
    )  # fmt: skip


@library.custom_op("foveal::aggregated_attention_triton_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    norms: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    query_embedding: Tensor,
    scale: Tensor,
    local_bias: Tensor,
    tokens: Tensor,
    token_bias: Tensor,
    bias: Tensor,
    rows: Tensor | None,
    columns: Tensor | None,
) -> list[Tensor]:
    from foveal.kernels.aggregated_attention import triton_backward

    return triton_backward.backward(
        gradient,
        norms,
        (query, key, value, pooled_key, pooled_value, query_embedding, scale, local_bias, tokens,
         token_bias, bias, rows, columns),
    )  # fmt: skip


@attend.register_fake
def _(query: Tensor, *_: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, height, width, heads = query.shape[:4]
    norms = query.new_empty((batch, heads, 2, height * width), dtype=torch.float32)
    return query.new_empty(query.shape), norms


@_backward.register_fake
def _(gradient: Tensor, norms: Tensor, *inputs: Tensor | None) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in inputs[:11] if x is not None]


def _keep(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx, gradient: Tensor, _norms: Tensor | None) -> tuple[Tensor | None, ...]:
    found: list[Tensor] = _backward(gradient, *ctx.saved_tensors)
    return (*found, None, None)


attend.register_autograd(_gradients, setup_context=_keep)
