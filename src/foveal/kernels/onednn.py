"""What oneDNN fuses on a CPU and PyTorch has no function for, in inference alone.

The functions are those that PyTorch's own compiler calls; without them (a build of PyTorch without
oneDNN, a processor it does not know) nothing here is used.
"""

import torch
from torch import Tensor

_LINEAR = bool(
    torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
_CONVOLUTION = bool(
    torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
)

# Our names of activations: oneDNN's, and how it computes them.
_ACTIVATIONS = {"none": ("none", ""), "gelu": ("gelu", "none"), "silu": ("swish", "")}


def objection(*tensors: Tensor | None) -> str | None:
    """Why oneDNN's fused forms cannot take these tensors, or None."""
    if not (_LINEAR and _CONVOLUTION):
        return "this build of PyTorch has no oneDNN"
    if torch.compiler.is_compiling():
        return "a compiled or exported program fuses by itself"
    if torch.is_grad_enabled():
        return "it has no gradients: use torch.inference_mode()"
    if torch.is_autocast_enabled("cpu"):
        return "it computes in float32, not in autocast's precision"
    reasons = (_tensor_objection(tensor) for tensor in tensors if tensor is not None)
    return next(filter(None, reasons), None)


def _tensor_objection(tensor: Tensor) -> str | None:
    if (tensor.device.type, tensor.dtype) != ("cpu", torch.float32):
        return f"it takes float32 on a CPU, not {tensor.dtype} on {tensor.device.type!r}"
    return None if tensor.numel() else "there is nothing to compute in an empty tensor"


def packed(weight: Tensor) -> Tensor:
    """A matrix (out, in) in the order that `linear` reads."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    """act(x Wᵀ + b) over the last axis, from a `packed` weight."""
    name, algorithm = _ACTIVATIONS[activation]
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, activation: str
) -> Tensor:
    """act(DW(x) + b), (b, c, h, w) to the same in channels-last memory."""
    name, algorithm = _ACTIVATIONS[activation]
    padding = dilation * (weight.shape[-1] // 2)
    return torch.ops.mkldnn._convolution_pointwise(
        x.contiguous(memory_format=torch.channels_last),
        weight,
        bias,
        [padding, padding],
        [1, 1],
        [dilation, dilation],
        weight.shape[0],
        name,
        [],
        algorithm,
    )
