"""Focal aggregation whose convolutions apply GELU themselves, by oneDNN."""

from collections.abc import Sequence

from torch import Tensor

from foveal.kernels import onednn
from foveal.kernels.focal_aggregation.reference import gated_sum, global_context


def objection(
    context: Tensor, gates: Tensor, weights: Sequence[Tensor], dilation: int, normalize: bool
) -> str | None:
    """Why oneDNN cannot run these arguments, or None."""
    return onednn.objection(context, gates, *weights)


def focal_aggregation(
    context: Tensor, gates: Tensor, weights: Sequence[Tensor], dilation: int, normalize: bool
) -> Tensor:
    """The contract of the package."""
    contexts = []
    for weight in weights:
        channels_first = context.permute(0, 3, 1, 2)
        context = onednn.depthwise(channels_first, weight, None, dilation, "gelu")
        contexts.append(context := context.permute(0, 2, 3, 1))
    return gated_sum([*contexts, global_context(context)], gates, normalize)
