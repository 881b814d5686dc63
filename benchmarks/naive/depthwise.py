"""A depthwise convolution between channels-last layers: copied to channels-first and back."""

from torch import Tensor
from torch.nn import functional as F


def depthwise_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    residual: bool = False,
    activation: str = "none",
) -> Tensor:
    """As `foveal.kernels.depthwise_convolution`, a step at a time."""
    first = x.permute(0, 3, 1, 2).contiguous()
    out = F.conv2d(first, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])
    out = first + out if residual else out
    out = F.gelu(out) if activation == "gelu" else out
    out = out.permute(0, 2, 3, 1).contiguous()
    return out if gate is None else out * gate
