"""Linear layers and 1 × 1 convolutions whose weights are laid out once for the CPU's own kernels.

oneDNN brings a weight into the order its kernels want at every call; for the small maps of late
stages that takes a good part of the time. Here it is done once. Anywhere but in float32 on a CPU
without gradients these are the plain layers.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.layers.mlp import Mlp

_AVAILABLE = bool(
    torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


class PackedWeight:
    """A matrix in oneDNN's order, made when it is first needed and again when it has changed."""

    def __init__(self):
        self._packed: Tensor | None = None
        self._made_from: tuple[int, int] | None = None

    def __deepcopy__(self, memo: dict) -> "PackedWeight":
        return PackedWeight()

    def __reduce__(self) -> tuple:
        return (PackedWeight, ())

    def linear(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none"
    ) -> Tensor:
        """act(x Wᵀ + b) over the last axis, act being "none" or "gelu".

        `weight` (out, in) may come with further axes of size 1.
        """
        if not _is_plain_inference(x, weight):
            out = F.linear(x, weight.flatten(1), bias)
            return F.gelu(out) if activation == "gelu" else out
        source = (weight.data_ptr(), weight._version)
        if self._packed is None or self._made_from != source:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().flatten(1))
            self._made_from = source
        algorithm = "none" if activation == "gelu" else ""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, activation, [], algorithm)


def _is_plain_inference(x: Tensor, weight: Tensor) -> bool:
    return (
        _AVAILABLE
        and not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


class PackedLinear(nn.Module):
    """`nn.Linear` for inference, (…, in) → (…, out).

    Args:
        linear: the layer whose parameters it takes over.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = PackedWeight()

    def forward(self, x: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        return self.packed.linear(x, self.weight, self.bias)


class PackedMlp(nn.Module):
    """`foveal.layers.mlp.Mlp` for inference, with GELU inside the first product.

    Args:
        mlp: the perceptron whose layers it takes over.
    """

    def __init__(self, mlp: Mlp):
        super().__init__()
        self.fc1, self.fc2 = mlp.fc1, mlp.fc2
        self.packed1, self.packed2 = PackedWeight(), PackedWeight()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        cells = x.permute(0, 2, 3, 1)
        hidden = self.packed1.linear(cells, self.fc1.weight, self.fc1.bias, "gelu")
        return self.packed2.linear(hidden, self.fc2.weight, self.fc2.bias).permute(0, 3, 1, 2)


class PackedPointwise(nn.Module):
    """A 1 × 1 `nn.Conv2d` for inference, (B, in, H, W) → (B, out, H, W) in channels-last memory.

    Args:
        conv: the convolution whose parameters it takes over; neither strided nor grouped.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.packed = PackedWeight()

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        y = self.packed.linear(x.permute(0, 2, 3, 1), self.weight, self.bias)
        return y.permute(0, 3, 1, 2)


def is_pointwise(module: nn.Module) -> bool:
    """Whether a module is a 1 × 1 convolution that is a linear layer at every position."""
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (1, 1)
        and module.stride == (1, 1)
        and module.padding == (0, 0)
        and module.groups == 1
    )
