"""Focal aggregation in plain PyTorch, step by step."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.depthwise_convolution.reference import convolved


def focal_contexts(context: Tensor, weights: Sequence[Tensor], dilation: int) -> list[Tensor]:
    """z¹ … z^L (b h w c), and z^{L+1} (b 1 1 c)."""
    contexts = []
    for weight in weights:
        context = convolved(context.permute(0, 3, 1, 2), weight, None, dilation)
        contexts.append(context := F.gelu(context.permute(0, 2, 3, 1)))
    return [*contexts, global_context(context)]


def global_context(context: Tensor) -> Tensor:
    """z^{L+1} (b 1 1 c) of z^L."""
    return F.gelu(context.mean((1, 2), keepdim=True))


def gated_sum(contexts: Sequence[Tensor], gates: Tensor, normalize: bool) -> Tensor:
    """Σ g^l ⊙ z^l, divided by the number of contexts if `normalize`."""
    total = contexts[0] * gates[..., :1]
    for level, context in enumerate(contexts[1:], start=1):
        total = torch.addcmul(total, context, gates[..., level : level + 1])
    return total / len(contexts) if normalize else total


def focal_aggregation(
    context: Tensor, gates: Tensor, weights: Sequence[Tensor], dilation: int, normalize: bool
) -> Tensor:
    """The contract of the package."""
    return gated_sum(focal_contexts(context, weights, dilation), gates, normalize)
