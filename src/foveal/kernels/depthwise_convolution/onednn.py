"""The depthwise convolution with its activation inside, by oneDNN."""

from torch import Tensor

from foveal.kernels import onednn


def objection(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    residual: bool,
    activation: str,
    dilation: int,
) -> str | None:
    """Why oneDNN cannot run these arguments, or why there is no point in it, or None."""
    if activation == "none":
        return "there is no activation to fuse"
    return onednn.objection(x, weight, bias, gate)


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
    if residual:
        weight = _with_identity(weight)
    out = onednn.depthwise(x.permute(0, 3, 1, 2), weight, bias, dilation, activation)
    out = out.permute(0, 2, 3, 1)
    return out if gate is None else out.mul_(gate)


def _with_identity(weight: Tensor) -> Tensor:
    """The filters that add the map itself: one more in their middle."""
    weight = weight.clone()
    middle = weight.shape[-1] // 2
    weight[:, :, middle, middle] += 1
    return weight
