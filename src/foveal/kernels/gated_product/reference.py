"""The gated product in plain PyTorch, which a compiler fuses with its neighbours."""

import torch
from torch import Tensor
from torch.nn import functional as F


def activated(x: Tensor, activation: str, scale: float) -> Tensor:
    """act(scale · x)."""
    if activation == "none":
        return x if scale == 1 else x * scale
    return F.gelu(x * scale if scale != 1 else x) if activation == "gelu" else torch.tanh(x * scale)


def gated_product(features: Tensor, gate: Tensor, activation: str, scale: float) -> Tensor:
    """The contract of the package."""
    features = activated(features, activation, scale)
    if features.shape[-1] == gate.shape[-1]:
        return features * gate
    groups = features.unflatten(-1, (-1, gate.shape[-1]))
    return (groups * gate.unsqueeze(-2)).flatten(-2)
