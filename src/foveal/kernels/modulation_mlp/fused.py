"""The modulation's kernel as an operator of PyTorch: what it takes, and shapes."""

import torch
from torch import Tensor, library, nn

from foveal.kernels.dispatch import triton_objection

# Beyond, two products of a tile do not fit the registers.
MOST_CHANNELS = 64


def objection(
    x: Tensor, context: Tensor, fc1: nn.Linear, fc2: nn.Linear, activation: str
) -> str | None:
    """Why the kernel cannot run these arguments, or None."""
    if torch.compiler.is_compiling():
        return "a compiled program holds the layers one by one"
    if torch.is_grad_enabled():
        return "it has no gradients: use torch.inference_mode()"
    if x.shape[-1] > MOST_CHANNELS:
        return f"it takes {MOST_CHANNELS} channels at most, not {x.shape[-1]}"
    if not (_is_plain(fc1) and _is_plain(fc2)):
        return "a layer is not a plain nn.Linear with a bias and without hooks"
    if torch.is_autocast_enabled(x.device.type) or fc1.weight.dtype != x.dtype:
        return "input and weights are of different precision"
    return triton_objection(x, context, fc1.weight, fc2.weight)


def _is_plain(layer: nn.Linear) -> bool:
    weight = getattr(layer, "weight", None)
    return (
        isinstance(layer, nn.Linear)
        and layer.bias is not None
        and type(weight) in (Tensor, nn.Parameter)
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
    )


def of_layers(
    x: Tensor, context: Tensor, fc1: nn.Linear, fc2: nn.Linear, activation: str
) -> Tensor:
    """The contract of the package."""
    return modulate(x, context, fc1.weight, fc1.bias, fc2.weight, fc2.bias, activation)


@library.custom_op("foveal::modulation_mlp_triton", mutates_args=())
def modulate(
    x: Tensor,
    context: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    activation: str,
) -> Tensor:
    """The contract of the package, from the layers' parameters."""
    from foveal.kernels.modulation_mlp import triton

    return triton.forward(x, context, (weight1, bias1, weight2, bias2), activation)


@modulate.register_fake
def _(x: Tensor, *_: Tensor | str) -> Tensor:
    return x.new_empty(x.shape)
