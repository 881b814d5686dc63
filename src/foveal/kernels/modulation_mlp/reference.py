"""EfficientMod's modulation layer by layer."""

from torch import Tensor, nn

from foveal.kernels.gated_product import gated_product


def modulation_mlp(
    x: Tensor, context: Tensor, fc1: nn.Linear, fc2: nn.Linear, activation: str
) -> Tensor:
    """The contract of the package."""
    return fc2(gated_product(fc1(x), context, activation))
