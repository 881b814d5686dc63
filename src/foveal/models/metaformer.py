"""A neutral body for any mixer, so that mechanisms are compared with all else equal.

Stem, downsampling, norms and MLPs are the plainest there are; only the token mixer is a choice.
After MetaFormer (Yu et al., CVPR 2022, arXiv 2111.11418), with layer norm and Swin-T's proportions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import LayerNorm2d
from torch import nn

from foveal.errors import OptionError, closest
from foveal.layers.block import Block
from foveal.layers.conv_norm import ConvNorm, conv_norm_stem, downsampling
from foveal.layers.mlp import Mlp
from foveal.models.backbone import Backbone, BackboneConfig, Stage
from foveal.models.family import Family
from foveal.models.mixers import MIXERS, TRAINED_SIDE


@dataclass(frozen=True, kw_only=True)
class MetaFormerConfig(BackboneConfig):
    """A body around one mixer.

    Attributes:
        mixer: a name of `foveal.mixers.MIXERS`, or a class called with `(dim, **mixer_options)`.
        mixer_options: what every mixer is given beside its channels.
        embed_dims: channels per stage.
        depths: blocks per stage.
        mlp_ratio: hidden channels of the MLP over channels.
        img_size: trained side in pixels, for mixers whose tables depend on it.
    """

    mixer: str | Callable[..., nn.Module] = "focal_modulation"
    mixer_options: Mapping[str, Any] = field(default_factory=dict)
    embed_dims: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (2, 2, 6, 2)
    mlp_ratio: float = 4.0
    img_size: int = 224
    drop_path_rate: float = 0.2

    def __post_init__(self) -> None:
        if isinstance(self.mixer, str) and self.mixer not in MIXERS:
            raise OptionError(
                f"Unknown mixer {self.mixer!r}.{closest(self.mixer, MIXERS)} "
                f"There are {', '.join(MIXERS)}, or give a class."
            )

    def build_mixer(self, stage: int, dd: Mapping[str, Any]) -> nn.Module:
        """The token mixer of one block."""
        dim, options = self.embed_dims[stage], dict(self.mixer_options)
        if callable(self.mixer):
            return self.mixer(dim, **options)
        if self.mixer in TRAINED_SIDE:
            side = self.img_size // (self.first_stride() * 2**stage)
            options.setdefault(TRAINED_SIDE[self.mixer], side)
        return MIXERS[self.mixer](dim, **options, **dd)


class MetaFormer(Backbone):
    """Four stages of `x + mixer(LN x)`, `x + MLP(LN x)`."""

    config: MetaFormerConfig

    def __init__(
        self,
        config: MetaFormerConfig = MetaFormerConfig(),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        dd = {"device": device, "dtype": dtype}
        config.refuse_output_stride("MetaFormer")
        channels = list(config.embed_dims)
        reductions, dilations = config.strides(len(channels))
        stages = []
        for stage, rates in enumerate(config.drop_path_rates(config.depths)):
            dim = channels[stage]
            blocks = [
                Block(
                    config.build_mixer(stage, dd),
                    Mlp(dim, config.mlp_ratio, **dd),
                    LayerNorm2d(dim, eps=1e-5, **dd),
                    LayerNorm2d(dim, eps=1e-5, **dd),
                    rate,
                )
                for rate in rates
            ]
            down = downsampling(
                channels, reductions, dilations, stage, kernel_size=3, padding=1, **dd
            )
            stages.append(Stage(blocks, down))
        stem = ConvNorm(
            config.in_chans,
            channels[0],
            kernel_size=7,
            stride=config.first_stride(),
            padding=3,
            on_image=True,
            **dd,
        )
        super().__init__(
            config,
            stem=conv_norm_stem(stem),
            stages=stages,
            channels=channels,
            reductions=reductions,
            norm=LayerNorm2d(channels[-1], eps=1e-5, **dd),
            **dd,
        )


BODIES = Family(MetaFormer, {"metaformer_tiny": MetaFormerConfig()}, lambda _: [])
