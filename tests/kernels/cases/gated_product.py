"""Cases of the gated product."""

import torch
from tests.kernels.harness import Case
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.gated_product import gated_product


def formula(activation: str, scale: float):
    def literal(features: Tensor, gate: Tensor) -> Tensor:
        act = {"none": lambda x: x, "gelu": F.gelu, "tanh": torch.tanh}[activation]
        repeats = features.shape[-1] // gate.shape[-1]
        return act(scale * features) * torch.cat([gate] * repeats, -1)

    return literal


def case(name: str, activation: str, scale: float, *shapes: tuple[int, ...], slow=False) -> Case:
    return Case(
        f"gated_product-{name}",
        lambda features, gate, backend: gated_product(
            features, gate, activation, scale, backend=backend
        ),
        formula(activation, scale),
        shapes,
        operator=lambda features, gate: (
            torch.ops.foveal.gated_product_triton.default,
            (features, gate, activation, scale),
        ),
        slow=slow,
    )


CASES = [
    case("repeat-gelu", "gelu", 1.0, (2, 3, 5, 4 * 24), (2, 3, 5, 24)),
    case("tanh", "tanh", 0.25, (2, 5, 3, 39), (2, 5, 3, 39)),
    case("plain-wide", "none", 1.0, (1, 1, 1, 6 * 70), (1, 1, 1, 70)),
    case("gelu-many-rows", "gelu", 1.0, (2, 7, 9, 8), (2, 7, 9, 8), slow=True),
]
