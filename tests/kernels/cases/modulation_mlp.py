"""Cases of EfficientMod's modulation and its two layers."""

import torch
from tests.kernels.harness import Case
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.kernels.modulation_mlp import modulation_mlp


def layer(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer with these very tensors."""
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    del linear.weight, linear.bias
    linear.weight, linear.bias = weight, bias  # pyright: ignore[reportAttributeAccessIssue]
    return linear


def formula(activation: str):
    def literal(x: Tensor, context: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor):
        hidden = torch.einsum("bhwc,oc->bhwo", x, w1) + b1
        if activation == "gelu":
            hidden = F.gelu(hidden)
        repeated = torch.cat([context] * (w1.shape[0] // x.shape[-1]), -1)
        return torch.einsum("bhwo,co->bhwc", hidden * repeated, w2) + b2

    return literal


def case(
    name: str, shape: tuple[int, int, int, int], ratio: int, activation: str, *, slow: bool = False
) -> Case:
    def run(x: Tensor, context: Tensor, *layers: Tensor, backend: str) -> Tensor:
        fc1, fc2 = layer(*layers[:2]), layer(*layers[2:])
        return modulation_mlp(x, context, fc1, fc2, activation, backend=backend)

    c = shape[-1]
    return Case(
        f"modulation_mlp-{name}",
        run,
        formula(activation),
        [shape, shape, (ratio * c, c), (ratio * c,), (c, ratio * c), (c,)],
        slow=slow,
        backends=(),
        inference=["triton"],
    )


CASES = [
    case("6-groups", (2, 3, 5, 24), 6, "gelu"),
    case("one-group", (1, 4, 9, 39), 1, "none"),
    case("64-channels", (2, 5, 7, 64), 4, "gelu"),
]
