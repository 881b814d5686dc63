"""The gated product's kernels as an operator of PyTorch: what it takes, shapes, gradients."""

import torch
from torch import Tensor, library

from foveal.kernels.dispatch import triton_objection


def objection(features: Tensor, gate: Tensor, activation: str, scale: float) -> str | None:
    """Why the kernels cannot run these arguments, or None."""
    if torch.compiler.is_compiling():
        return "the compiler fuses the plain form with its neighbours"
    return triton_objection(features, gate)


@library.custom_op("foveal::gated_product_triton", mutates_args=())
def gated_product(features: Tensor, gate: Tensor, activation: str, scale: float) -> Tensor:
    """The contract of the package."""
    from foveal.kernels.gated_product import triton

    return triton.forward(features, gate, activation, scale)


@library.custom_op("foveal::gated_product_triton_backward", mutates_args=())
def _backward(
    gradient: Tensor, features: Tensor, gate: Tensor, activation: str, scale: float
) -> tuple[Tensor, Tensor]:
    from foveal.kernels.gated_product import triton

    return triton.backward(gradient, features, gate, activation, scale)


@gated_product.register_fake
def _(features: Tensor, gate: Tensor, activation: str, scale: float) -> Tensor:
    return features.new_empty(features.shape)


@_backward.register_fake
def _(
    gradient: Tensor, features: Tensor, gate: Tensor, activation: str, scale: float
) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), gate.new_empty(gate.shape)


def _keep(ctx, inputs: tuple, output: Tensor) -> None:
    features, gate, ctx.activation, ctx.scale = inputs
    ctx.save_for_backward(features, gate)


def _gradients(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
    found = _backward(gradient, *ctx.saved_tensors, ctx.activation, ctx.scale)
    return (*found, None, None)


gated_product.register_autograd(_gradients, setup_context=_keep)
