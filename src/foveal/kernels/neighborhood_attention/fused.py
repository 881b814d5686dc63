"""Neighbourhood attention's kernels as an operator of PyTorch: what it takes, shapes, gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor, library

from foveal.kernels.dispatch import triton_objection

MOST_CHANNELS, MOST_NEIGHBORS = 128, 13


def objection(
    q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, size: Sequence[int], kernel: int
) -> str | None:
    """Why the kernels cannot run these arguments, or None."""
    if not q.dtype == k.dtype == v.dtype:
        return f"q, k and v have one dtype, not {q.dtype}, {k.dtype} and {v.dtype}"
    if kernel > MOST_NEIGHBORS:
        return f"a neighbourhood has at most {MOST_NEIGHBORS} positions a side, not {kernel}"
    if q.shape[4] > MOST_CHANNELS:
        return f"a head has at most {MOST_CHANNELS} channels, not {q.shape[4]}"
    return triton_objection(q, k, v, position_bias)


@library.custom_op("foveal::neighborhood_attention_triton", mutates_args=())
def attention_and_lse(
    q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, size: Sequence[int], kernel: int
) -> tuple[Tensor, Tensor]:
    """The contract of the package, and the logarithm of the softmax's sum (b heads h w)."""
    from foveal.kernels.neighborhood_attention import triton

    return triton.forward(q, k, v, position_bias, size, kernel)


@library.custom_op("foveal::neighborhood_attention_triton_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position_bias: Tensor,
    out: Tensor,
    lse: Tensor,
    kernel: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from foveal.kernels.neighborhood_attention import triton

    return triton.backward(gradient, q, k, v, position_bias, out, lse, kernel)


@attention_and_lse.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, size: Sequence[int], kernel: int
) -> tuple[Tensor, Tensor]:
    b, heads, d = q.shape[0], q.shape[3], q.shape[4]
    return q.new_empty(b, *size, heads, d), q.new_empty(b, heads, *size, dtype=torch.float32)


@_backward.register_fake
def _(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position_bias: Tensor,
    out: Tensor,
    lse: Tensor,
    kernel: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        position_bias.new_empty(position_bias.shape),
    )


def _keep(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    q, k, v, position_bias, _, ctx.kernel = inputs
    out, lse = output
    ctx.mark_non_differentiable(lse)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(q, k, v, position_bias, out, lse)


def _gradients(ctx, gradient: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 6
    return (*_backward(gradient, *ctx.saved_tensors, ctx.kernel), None, None)


attention_and_lse.register_autograd(_gradients, setup_context=_keep)


def neighborhood_attention(
    q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, size: Sequence[int], kernel: int
) -> Tensor:
    """The contract of the package."""
    return attention_and_lse(q, k, v, position_bias, size, kernel)[0]
