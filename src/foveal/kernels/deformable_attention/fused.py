"""Deformable attention's kernels as an operator of PyTorch: what it takes, shapes, gradients."""

import torch
from torch import Tensor, library

from foveal.kernels.dispatch import triton_objection

MOST_FEATURES = 128


def objection(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    table: Tensor,
    query_y: Tensor,
    query_x: Tensor,
    corner_aligned: bool,
) -> str | None:
    """Why the kernels cannot run these arguments, or None."""
    if not q.dtype == k.dtype == v.dtype:
        return f"q, k and v have one dtype there, not {q.dtype}, {k.dtype} and {v.dtype}"
    if q.shape[4] > MOST_FEATURES:
        return f"a head has at most {MOST_FEATURES} features there, not {q.shape[4]}"
    if torch.is_grad_enabled() and (query_y.requires_grad or query_x.requires_grad):
        return "its query coordinates need a gradient, which only the reference computes"
    return triton_objection(q, k, v, positions, table, query_y, query_x)


def deformable_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    table: Tensor,
    query_y: Tensor,
    query_x: Tensor,
    corner_aligned: bool,
) -> Tensor:
    """The contract of the package."""
    tensors = (q, k, v, positions, table, query_y, query_x)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return _forward(*tensors, corner_aligned, keep)[0]


@library.custom_op("foveal::deformable_attention_triton", mutates_args=())
def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    table: Tensor,
    query_y: Tensor,
    query_x: Tensor,
    corner_aligned: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from foveal.kernels.deformable_attention import triton

    return triton.forward(q, k, v, positions, table, query_y, query_x, corner_aligned, keep)


@library.custom_op("foveal::deformable_attention_triton_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    table: Tensor,
    query_y: Tensor,
    query_x: Tensor,
    out: Tensor,
    rest: Tensor,
    lse: Tensor,
    corner_aligned: bool,
    table_needed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    from foveal.kernels.deformable_attention import triton

    inputs = (q, k, v, positions, table, query_y, query_x)
    return triton.backward(gradient, *inputs, out, rest, lse, corner_aligned, table_needed)


def like_queries(q: Tensor) -> Tensor:
    """Empty (b, heads, h, w, d), in memory (b, h, w, heads, d), as projections read it."""
    b, heads, h, w, d = q.shape
    return q.new_empty((b, h, w, heads, d)).permute(0, 3, 1, 2, 4)


def _like_keys(k: Tensor) -> Tensor:
    b, heads, n, d = k.shape
    return k.new_empty((b, n, heads, d)).transpose(1, 2)


@_forward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    table: Tensor,
    query_y: Tensor,
    query_x: Tensor,
    corner_aligned: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rest = like_queries(q) if keep and q.dtype != torch.float32 else q.new_empty(0)
    return like_queries(q), rest, q.new_empty(q.shape[:4], dtype=torch.float32)


@_backward.register_fake
def _(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    table: Tensor,
    query_y: Tensor,
    query_x: Tensor,
    out: Tensor,
    rest: Tensor,
    lse: Tensor,
    corner_aligned: bool,
    table_needed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_table = table.new_empty(table.shape if table_needed else 0)
    return (
        like_queries(q),
        _like_keys(k),
        _like_keys(v),
        positions.new_empty(positions.shape),
        d_table,
    )


def _keep(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.corner_aligned, _ = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _gradients(ctx, gradient: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 9
    needed = ctx.needs_input_grad[4]
    *found, table = _backward(gradient, *ctx.saved_tensors, ctx.corner_aligned, needed)
    return (*found, table if needed else None, None, None, None, None)


_forward.register_autograd(_gradients, setup_context=_keep)
