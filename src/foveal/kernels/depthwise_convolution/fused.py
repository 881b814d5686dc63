"""The depthwise convolution's kernels as an operator of PyTorch: what it takes, its gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor, library

from foveal.kernels.dispatch import triton_objection

# The accumulators of wider filters do not fit the registers.
WIDEST = 13


def objection(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    residual: bool,
    activation: str,
    dilation: int,
) -> str | None:
    """Why the kernels cannot run these arguments, or None."""
    return triton_objection(x, weight, bias, gate) or filter_objection(weight)


def filter_objection(weight: Tensor) -> str | None:
    """What is wrong with the filters' size, or None."""
    height, width = weight.shape[-2:]
    if height == width and width % 2 == 1 and width <= WIDEST:
        return None
    return f"it takes square filters of odd size up to {WIDEST}, not {height} x {width}"


def depthwise_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    residual: bool,
    activation: str,
    dilation: int,
) -> Tensor:
    """The contract of the package."""
    given = [t for t in (x, weight, bias, gate) if t is not None]
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in given)
    # Without activation and gate the backward pass has no use for the convolution's result.
    keep = keep and (activation != "none" or gate is not None)
    return _whole(x, weight, bias, gate, residual, activation, dilation, keep)[0]


@library.custom_op("foveal::depthwise_convolution_triton", mutates_args=())
def _whole(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    residual: bool,
    activation: str,
    dilation: int,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The result, and what the activation is applied to: empty unless it is to be kept."""
    from foveal.kernels.depthwise_convolution import triton

    return triton.forward(x, weight, bias, gate, residual, activation, dilation, keep)


@library.custom_op("foveal::depthwise_convolution_triton_backward", mutates_args=())
def _backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    activated: Tensor,
    residual: bool,
    activation: str,
    dilation: int,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and gate, empty where none is needed."""
    from foveal.kernels.depthwise_convolution import triton

    return triton.backward(
        gradient, x, weight, gate, activated, residual, activation, dilation, needed
    )


@_whole.register_fake
def _(x, weight, bias, gate, residual, activation, dilation, keep):
    return x.new_empty(x.shape), x.new_empty(x.shape if keep else 0)


@_backward.register_fake
def _(gradient, x, weight, gate, activated, residual, activation, dilation, needed):
    like_gate = x if gate is None else gate
    sizes = (x.shape, weight.shape, weight.shape[:1], like_gate.shape)
    made = zip((x, weight, weight, like_gate), sizes, needed, strict=True)
    return tuple(tensor.new_empty(size if need else 0) for tensor, size, need in made)


def _keep(ctx, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, gate, ctx.residual, ctx.activation, ctx.dilation, _ = inputs
    ctx.save_for_backward(x, weight, gate, output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx, gradient: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return (None,) * 8
    needed = ctx.needs_input_grad[:4]
    rest = (ctx.residual, ctx.activation, ctx.dilation, list(needed))
    found = _backward(gradient, *ctx.saved_tensors, *rest)
    kept = (one if need else None for one, need in zip(found, needed, strict=True))
    return (*kept, None, None, None, None)


_whole.register_autograd(_gradients, setup_context=_keep)
