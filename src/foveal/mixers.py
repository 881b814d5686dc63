"""Every mixer as a module of its own, (B, C, H, W) → (B, C, H, W), any H and W from 1 up.

Token mixers: `FocalModulation`, `AggregatedAttention`, `CloAttention`, `DeformableAttention`,
`NeighborhoodAttention`, `EfficientModulation`. Channel mixers: `ConvGLU`, `ConvFFN`. All take
`(dim, **their own options)`; each docstring gives the rule for `dim`.
"""

from foveal.models.mixers import (
    MIXERS,
    AggregatedAttention,
    CloAttention,
    ConvFFN,
    ConvGLU,
    DeformableAttention,
    EfficientModulation,
    FocalModulation,
    NeighborhoodAttention,
)

__all__ = [
    "MIXERS",
    "AggregatedAttention",
    "CloAttention",
    "ConvFFN",
    "ConvGLU",
    "DeformableAttention",
    "EfficientModulation",
    "FocalModulation",
    "NeighborhoodAttention",
]
