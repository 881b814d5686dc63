"""Focal aggregation's kernels as an operator of PyTorch: what it takes, its gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor, library

from foveal.kernels.depthwise_convolution.fused import filter_objection
from foveal.kernels.dispatch import triton_objection


def objection(
    context: Tensor, gates: Tensor, weights: Sequence[Tensor], dilation: int, normalize: bool
) -> str | None:
    """Why the kernels cannot run these arguments, or None."""
    found = triton_objection(context, gates, *weights)
    if found is None and not weights:
        return "without a focal level there is no convolution to fuse"
    return found or next(filter(None, map(filter_objection, weights)), None)


def focal_aggregation(
    context: Tensor, gates: Tensor, weights: Sequence[Tensor], dilation: int, normalize: bool
) -> Tensor:
    """The contract of the package."""
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (context, gates, *weights))
    return _whole(context, gates, list(weights), dilation, normalize, keep)[0]


@library.custom_op("foveal::focal_aggregation_triton", mutates_args=())
def _whole(
    context: Tensor,
    gates: Tensor,
    weights: Sequence[Tensor],
    dilation: int,
    normalize: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result; what the activations are applied to (L b h w c), empty unless kept; the mean."""
    from foveal.kernels.focal_aggregation import triton

    return triton.forward(context, gates, weights, dilation, normalize, keep)


@library.custom_op("foveal::focal_aggregation_triton_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    context: Tensor,
    gates: Tensor,
    weights: Sequence[Tensor],
    kept: Tensor,
    mean: Tensor,
    dilation: int,
    normalize: bool,
) -> list[Tensor]:
    """The gradients of context, gates and weights."""
    from foveal.kernels.focal_aggregation import triton

    return triton.backward(gradient, context, gates, weights, kept, mean, dilation, normalize)


@_whole.register_fake
def _(context, gates, weights, dilation, normalize, keep):
    kept = (len(weights), *context.shape) if keep else 0
    mean = context.new_empty((context.shape[0], context.shape[3]), dtype=torch.float32)
    return context.new_empty(context.shape), context.new_empty(kept), mean


@_backward.register_fake
def _(gradient, context, gates, weights, kept, mean, dilation, normalize):
    return [tensor.new_empty(tensor.shape) for tensor in (context, gates, *weights)]


def _keep(ctx, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    context, gates, weights, ctx.dilation, ctx.normalize, _ = inputs
    ctx.save_for_backward(context, gates, output[1], output[2], *weights)
    ctx.set_materialize_grads(False)


def _gradients(ctx, gradient: Tensor | None, *_: Tensor | None) -> tuple:
    context, gates, kept, mean, *weights = ctx.saved_tensors
    if gradient is None:
        return None, None, [None] * len(weights), None, None, None
    rest = (kept, mean, ctx.dilation, ctx.normalize)
    d_context, d_gates, *d_weights = _backward(gradient, context, gates, weights, *rest)
    return d_context, d_gates, d_weights, None, None, None


_whole.register_autograd(_gradients, setup_context=_keep)
