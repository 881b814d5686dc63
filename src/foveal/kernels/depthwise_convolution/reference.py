"""The depthwise convolution and its epilogue in plain PyTorch, on the same memory as NCHW."""

from torch import Tensor
from torch.nn import functional as F


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """The convolution alone, (b, c, h, w) to the same."""
    padding = dilation * (weight.shape[-1] // 2)
    return F.conv2d(x, weight, bias, 1, padding, dilation, weight.shape[0])


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
    x = x.permute(0, 3, 1, 2)
    out = convolved(x, weight, bias, dilation)
    if residual:
        out = x + out
    if activation != "none":
        out = F.gelu(out) if activation == "gelu" else F.silu(out)
    out = out.permute(0, 2, 3, 1)
    return out if gate is None else out * gate
