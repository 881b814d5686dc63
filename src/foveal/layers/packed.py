"""Linear layers and 1 × 1 convolutions whose weights are laid out once for the CPU's own kernels.

oneDNN brings a weight into the order its kernels want at every call; for the small maps of late
stages that takes a good part of the time. Here it is done once. Anywhere but in float32 on a CPU
without gradients these are the plain layers.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.kernels import onednn
from foveal.kernels.depthwise_convolution import depthwise_convolution
from foveal.layers.mlp import Mlp


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
        if onednn.objection(x, weight) is not None:
            out = F.linear(x, weight.flatten(1), bias)
            return F.gelu(out) if activation == "gelu" else out
        source = (weight.data_ptr(), weight._version)
        if self._packed is None or self._made_from != source:
            self._packed = onednn.packed(weight.flatten(1))
            self._made_from = source
        return onednn.linear(x, self._packed, bias, activation)


class PackedLinear(nn.Linear):
    """`nn.Linear` for inference, (…, in) → (…, out).

    Args:
        linear: the layer whose parameters it takes over.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__(linear.in_features, linear.out_features, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.packed = PackedWeight()

    def forward(self, input: Float[Tensor, "*n i"]) -> Float[Tensor, "*n o"]:
        return self.packed.linear(input, self.weight, self.bias)


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


class PackedConvGLU(nn.Module):
    """A convolutional GLU for inference: gate and value are products apart, so neither is copied.

    Args:
        fc1: makes gate and value at once, from which this makes two.
        dwconv: 3 × 3 filters of the gate.
        fc2: the layer that gate ⊙ value goes through.
    """

    def __init__(self, fc1: nn.Linear, dwconv: nn.Conv2d, fc2: nn.Linear):
        super().__init__()
        self.gate, self.value = (PackedLinear(half) for half in halves(fc1))
        self.dwconv, self.fc2 = dwconv, PackedLinear(fc2)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        cells = x.permute(0, 2, 3, 1)
        weight, bias = self.dwconv.weight, self.dwconv.bias
        opened = depthwise_convolution(
            self.gate(cells), weight, bias, gate=self.value(cells), activation="gelu"
        )
        return self.fc2(opened).permute(0, 3, 1, 2)


def halves(linear: nn.Linear) -> tuple[nn.Linear, nn.Linear]:
    """The first and the second half of what a linear layer gives out, on its own memory."""
    features, biased = linear.out_features // 2, linear.bias is not None
    first, second = (
        nn.Linear(linear.in_features, features, bias=biased, device="meta") for _ in range(2)
    )
    for half, rows in ((first, slice(None, features)), (second, slice(features, None))):
        half.weight = nn.Parameter(linear.weight[rows], requires_grad=False)
        if biased:
            half.bias = nn.Parameter(linear.bias[rows], requires_grad=False)
    return first, second


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
