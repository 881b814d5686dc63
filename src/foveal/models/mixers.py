"""The catalogue of mixers: each alone, (B, C, H, W) → (B, C, H, W), for use in any network."""

from torch import nn

from foveal.models.cloformer import CloAttention, ConvFFN
from foveal.models.dat import DeformableAttention
from foveal.models.dat_local import NeighborhoodAttention
from foveal.models.efficientmod import EfficientModulation
from foveal.models.focalnet import FocalModulation
from foveal.models.transnext import AggregatedAttention, ConvGLU

# Token mixers by the names that `create_model("metaformer_tiny", mixer=…)` takes.
MIXERS: dict[str, type[nn.Module]] = {
    "focal_modulation": FocalModulation,
    "aggregated_attention": AggregatedAttention,
    "clo_attention": CloAttention,
    "deformable_attention": DeformableAttention,
    "neighborhood_attention": NeighborhoodAttention,
    "efficient_modulation": EfficientModulation,
}

# The option by which a mixer with tables learns the side, in cells, of the map it is trained on.
TRAINED_SIDE = {"aggregated_attention": "pretrain_size", "deformable_attention": "table_size"}

__all__ = [
    "MIXERS",
    "TRAINED_SIDE",
    "AggregatedAttention",
    "CloAttention",
    "ConvFFN",
    "ConvGLU",
    "DeformableAttention",
    "EfficientModulation",
    "FocalModulation",
    "NeighborhoodAttention",
]
