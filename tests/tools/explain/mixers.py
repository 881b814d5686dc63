"""One small mixer of every kind, stirred, with the map it is read on."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from foveal.mixers import (
    AggregatedAttention,
    CloAttention,
    ConvGLU,
    DeformableAttention,
    EfficientModulation,
    FocalModulation,
    NeighborhoodAttention,
)
from foveal.models.dat_local import WindowAttention
from foveal.models.efficientmod import Attention
from foveal.models.transnext import FullAttention
from tests.models.families import stir

MIXERS: dict[str, Callable[[], nn.Module]] = {
    "focal modulation": lambda: FocalModulation(8, focal_level=3, use_postln_in_modulation=True),
    "focal modulation, normalized": lambda: FocalModulation(8, normalize_modulator=True),
    "focal modulation, global alone": lambda: FocalModulation(8, focal_level=0),
    "aggregated attention": lambda: AggregatedAttention(12, 2, sr_ratio=2, pretrain_size=8),
    "aggregated attention, 5 x 5": lambda: AggregatedAttention(
        12, 2, pool_size=3, pretrain_size=8, window_size=5
    ),
    "full attention": lambda: FullAttention(12, 2, pretrain_size=8),
    "convolutional GLU": lambda: ConvGLU(6),
    "clo attention": lambda: CloAttention(16, 4, (2, 2), (3,), 2),
    "clo attention, two groups": lambda: CloAttention(16, 4, (1, 2, 1), (3, 5), 3),
    "clo attention, local alone": lambda: CloAttention(16, 4, (4, 0), (3,)),
    "clo attention, global alone": lambda: CloAttention(16, 4, (4,), (), 2),
    "deformable attention": lambda: DeformableAttention(16, 4, 2, stride=2),
    "deformable attention, DAT": lambda: DeformableAttention(
        16, 4, 2, stride=1, corner_aligned=False, offset_range_factor=2
    ),
    "deformable attention, convolution": lambda: DeformableAttention(16, 2, position_bias="dwc"),
    "deformable attention, pooled": lambda: DeformableAttention(16, 4, use_offsets=False),
    "neighbourhood attention": lambda: NeighborhoodAttention(8, 2, 3),
    "neighbourhood attention, wide": lambda: NeighborhoodAttention(8, 2, 9),
    "window attention": lambda: WindowAttention(8, 2, 4),
    "window attention, shifted": lambda: WindowAttention(8, 2, 4, shift=True),
    "efficient modulation": lambda: EfficientModulation(8, ratio=3),
    "efficient modulation, narrow": lambda: EfficientModulation(8, ratio=1),
    "plain attention": lambda: Attention(8, 2),
}

ATTENTIONS = [name for name in MIXERS if "attention" in name and "local alone" not in name]

# Rows and columns: whole windows, and ragged ones.
SIZES = [(8, 8), (9, 7)]


def mixer(name: str) -> nn.Module:
    """A mixer of that kind in float64, with nothing left at its initial constant."""
    torch.manual_seed(0)
    made = MIXERS[name]()
    stir(made)
    return made.double().eval()


def map_for(layer: nn.Module, size: tuple[int, int], images: int = 2) -> Tensor:
    """A map with the channels that a mixer takes."""
    first = next(m for m in layer.modules() if isinstance(m, nn.Linear | nn.Conv2d))
    channels = first.in_features if isinstance(first, nn.Linear) else first.in_channels
    return torch.randn(images, channels, *size, dtype=torch.float64)
