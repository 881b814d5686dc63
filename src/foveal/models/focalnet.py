"""FocalNet: focal modulation networks (Yang et al., NeurIPS 2022, arXiv 2203.11926).

Official code: github.com/microsoft/FocalNet, MIT licence. Written afresh from the paper.

A query does not attend to its surroundings; its surroundings are first summarised, at L growing
radii by a chain of depthwise convolutions and once over the whole image, and each position
gates how much of each summary it takes. The aggregate, the modulator, then multiplies the query.

    y(i) = proj( q(i) ⊙ h( Σ_{l=1}^{L+1} g^l(i) · z^l(i) ) )                              (eq. 5)

Deviations: none in value. Maps stay channels-last throughout; `output_stride` dilates the
depthwise convolutions, which the official code does not offer.
"""

# Shapes: b batch, c channels, h w height and width of the map, L focal levels.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from jaxtyping import Float
from timm.layers import DropPath, LayerNorm2d, LayerScale2d
from torch import Tensor, nn

from foveal.errors import OptionError
from foveal.kernels.focal_aggregation import focal_aggregation, focal_contexts, gated_sum
from foveal.layers.conv_norm import ConvNorm, conv_norm_stem, downsampling
from foveal.layers.mlp import Mlp
from foveal.models.backbone import Backbone, BackboneConfig, Stage
from foveal.models.family import Family, Rename
from foveal.models.registry import register


@dataclass(frozen=True, kw_only=True)
class FocalNetConfig(BackboneConfig):
    """A FocalNet in the paper's words.

    Attributes:
        embed_dim: channels of the first stage; they double from stage to stage.
        depths: blocks per stage; one stage makes the network isotropic.
        focal_levels: L, an int or one per stage.
        focal_windows: kernel of the first level, odd, an int or one per stage; +2 per level.
        mlp_ratio: hidden channels of the MLP over channels.
        patch_size: pixels per cell of the first map.
        use_conv_embed: overlapping convolutions for the stem and the downsampling.
        use_postln: normalise the branches' outputs instead of their inputs.
        use_layerscale: a learned factor per channel and branch, 1e-4 at first.
        use_postln_in_modulation: layer norm before the modulation's projection.
        normalize_modulator: divide the modulator by L + 1.
    """

    embed_dim: int = 96
    depths: Sequence[int] = (2, 2, 6, 2)
    focal_levels: int | Sequence[int] = 2
    focal_windows: int | Sequence[int] = 3
    mlp_ratio: float = 4.0
    patch_size: int = 4
    use_conv_embed: bool = False
    use_postln: bool = False
    use_layerscale: bool = False
    use_postln_in_modulation: bool = False
    normalize_modulator: bool = False


class FocalModulation(nn.Module):
    """Focal modulation, (B, C, H, W) → (B, C, H, W), any C, H and W.

    Args:
        dim: channels C.
        focal_level: L; 0 leaves the global context alone (a squeeze-and-excitation-like unit).
        focal_window: kernel of level 1, odd; level l has focal_window + 2(l − 1).
        use_postln_in_modulation: layer norm before the projection.
        normalize_modulator: divide the modulator by L + 1.
        dilation: of the depthwise convolutions, for dense prediction at a finer stride.
    """

    def __init__(
        self,
        dim: int,
        focal_level: int = 2,
        focal_window: int = 3,
        *,
        use_postln_in_modulation: bool = False,
        normalize_modulator: bool = False,
        dilation: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if focal_level < 0 or focal_window < 1 or focal_window % 2 == 0:
            raise OptionError(
                "FocalModulation takes a focal_level from 0 up and an odd focal_window from 1 up, "
                f"got {focal_level} and {focal_window}."
            )
        dd = {"device": device, "dtype": dtype}
        self.dim = dim
        self.focal_level = focal_level
        self.normalize_modulator = normalize_modulator
        self.dilation = dilation
        self.f = nn.Linear(dim, 2 * dim + focal_level + 1, **dd)
        self.focal_layers = nn.ModuleList(
            nn.Conv2d(
                dim,
                dim,
                kernel,
                padding=dilation * (kernel // 2),
                dilation=dilation,
                groups=dim,
                bias=False,
                **dd,
            )
            for kernel in (focal_window + 2 * level for level in range(focal_level))
        )
        self.h = nn.Conv2d(dim, dim, 1, **dd)
        self.norm = nn.LayerNorm(dim, eps=1e-5, **dd) if use_postln_in_modulation else nn.Identity()
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query, context, gates = self._split(x)
        return self._modulate(query, self._modulator(context, gates))

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Step 1: q, z⁰ (b h w c) and the L+1 gates (b h w L+1)."""
        widths = (self.dim, self.dim, self.focal_level + 1)
        q, z, g = self.f(x.permute(0, 2, 3, 1)).split(widths, dim=-1)
        return q, z, g

    def _modulator(self, context: Tensor, gates: Tensor) -> Tensor:
        """Steps 2 to 4 at once."""
        return focal_aggregation(
            context,
            gates,
            *self._filters(),
            dilation=self.dilation,
            normalize=self.normalize_modulator,
        )

    def _filters(self) -> list[Tensor]:
        # Not `get_parameter`: a weight may be a parametrisation, such as 8-bit integers and scales.
        return [cast(nn.Conv2d, layer).weight for layer in self.focal_layers]

    def _contexts(self, z: Tensor) -> list[Tensor]:
        """Steps 2 and 3: z¹ … z^L from depthwise convolutions, z^{L+1} (b 1 1 c) from the mean."""
        return focal_contexts(z, self._filters(), self.dilation)

    def _aggregate(self, contexts: list[Tensor], gates: Tensor) -> Tensor:
        """Step 4: the modulator before h, Σ g^l ⊙ z^l."""
        return gated_sum(contexts, gates, self.normalize_modulator)

    def _modulate(self, query: Tensor, modulator: Tensor) -> Tensor:
        """Step 5: proj(q ⊙ h(m)), with a layer norm in between if asked for."""
        return self.proj(self.norm(query * self._mapped(modulator))).permute(0, 3, 1, 2)

    def _mapped(self, modulator: Tensor) -> Tensor:
        """h(m), a 1×1 convolution."""
        return self.h(modulator.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """What forward computes on the way.

        Returns:
            query (b c h w); gates (b L+1 h w), unbounded, the last for the global context;
            context_1 … context_L+1, each (b c h w), the last (b c 1 1); modulator (b c h w), h(m).
        """
        query, context, gates = self._split(x)
        contexts = self._contexts(context)
        named = {f"context_{level}": z for level, z in enumerate(contexts, start=1)}
        modulator = self._mapped(self._aggregate(contexts, gates))
        named = {"query": query, "gates": gates, **named, "modulator": modulator}
        return {name: value.permute(0, 3, 1, 2) for name, value in named.items()}


class FocalNetBlock(nn.Module):
    """Focal modulation, then an MLP, each a residual branch normed before or after.

    Args:
        dim: channels.
        config: of the network.
        stage: index of the stage, for its focal level and window.
        drop_path: stochastic depth.
        dilation: of the depthwise convolutions.
    """

    def __init__(
        self,
        dim: int,
        config: FocalNetConfig,
        stage: int,
        drop_path: float,
        dilation: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.use_postln = config.use_postln
        self.mixer = FocalModulation(
            dim,
            _per_stage(config.focal_levels, config)[stage],
            _per_stage(config.focal_windows, config)[stage],
            use_postln_in_modulation=config.use_postln_in_modulation,
            normalize_modulator=config.normalize_modulator,
            dilation=dilation,
            **dd,
        )
        self.channel_mixer = Mlp(dim, config.mlp_ratio, **dd)
        self.norm1 = LayerNorm2d(dim, eps=1e-5, **dd)
        self.norm2 = LayerNorm2d(dim, eps=1e-5, **dd)
        scale = config.use_layerscale
        self.layer_scale1 = LayerScale2d(dim, 1e-4, **dd) if scale else nn.Identity()
        self.layer_scale2 = LayerScale2d(dim, 1e-4, **dd) if scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        modulated = self._branch(self.mixer, self.norm1, x)
        x = x + self.drop_path(self.layer_scale1(modulated))
        mixed = self._branch(self.channel_mixer, self.norm2, x)
        return x + self.drop_path(self.layer_scale2(mixed))

    def _branch(self, unit: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(unit(x)) if self.use_postln else unit(norm(x))


class FocalNet(Backbone):
    """A FocalNet, hierarchical with several `depths`, isotropic with one."""

    config: FocalNetConfig

    def __init__(
        self,
        config: FocalNetConfig = FocalNetConfig(),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        dd = {"device": device, "dtype": dtype}
        isotropic = len(config.depths) == 1
        if isotropic:
            config.refuse_output_stride("The isotropic FocalNet")
        channels = [config.embed_dim * 2**stage for stage in range(len(config.depths))]
        reductions, dilations = config.strides(len(channels), config.patch_size)
        overlap = config.use_conv_embed and not isotropic
        down = {"kernel_size": 3 if overlap else 2, "padding": int(overlap)}
        stages = []
        for stage, rates in enumerate(config.drop_path_rates(config.depths)):
            stages.append(
                Stage(
                    [
                        FocalNetBlock(channels[stage], config, stage, rate, dilations[stage], **dd)
                        for rate in rates
                    ],
                    downsampling(channels, reductions, dilations, stage, **down, **dd),
                )
            )
        kernel, padding = (7, 2) if overlap else (config.patch_size, 0)
        stem = ConvNorm(
            config.in_chans,
            channels[0],
            kernel_size=kernel,
            stride=reductions[0],
            # At half the stride a patch overlaps its neighbours, as much on either side.
            padding=padding if reductions[0] == config.patch_size else (kernel - 1) // 2,
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
            isotropic=isotropic,
            **dd,
        )


def _per_stage(value: int | Sequence[int], config: FocalNetConfig) -> Sequence[int]:
    """One value a stage, from one for all or one each."""
    values = [value] * len(config.depths) if isinstance(value, int) else list(value)
    if len(values) != len(config.depths):
        raise OptionError(
            f"focal_levels and focal_windows take one int, or one per stage: "
            f"{len(config.depths)} stages, got {values}."
        )
    return values


_TINY = FocalNetConfig(embed_dim=96, depths=(2, 2, 6, 2), drop_path_rate=0.2)
_SMALL = replace(_TINY, depths=(2, 2, 18, 2), drop_path_rate=0.3)
_BASE = replace(_SMALL, embed_dim=128, drop_path_rate=0.5)
_ISO = FocalNetConfig(
    embed_dim=192, depths=(12,), focal_levels=3, patch_size=16, drop_path_rate=0.2
)
_LARGE = replace(
    _BASE,
    embed_dim=192,
    use_conv_embed=True,
    use_postln=True,
    use_layerscale=True,
    num_classes=21842,
)
_HUGE = replace(_LARGE, embed_dim=352, use_postln_in_modulation=True)
_FL3 = {"focal_levels": 3, "focal_windows": 5}
_FL4 = {"focal_levels": 4, "focal_windows": 3, "normalize_modulator": True}

# The paper's variants: srf and lrf are small and large receptive field, fl3 and fl4 the levels.
VARIANTS = {
    "focalnet_tiny_srf": _TINY,
    "focalnet_tiny_lrf": replace(_TINY, focal_levels=3),
    "focalnet_small_srf": _SMALL,
    "focalnet_small_lrf": replace(_SMALL, focal_levels=3),
    "focalnet_base_srf": _BASE,
    "focalnet_base_lrf": replace(_BASE, focal_levels=3),
    "focalnet_tiny_iso": _ISO,
    "focalnet_small_iso": replace(_ISO, embed_dim=384),
    "focalnet_base_iso": replace(_ISO, embed_dim=768, use_postln=True, use_layerscale=True),
    "focalnet_large_fl3": replace(_LARGE, **_FL3),
    "focalnet_large_fl4": replace(_LARGE, **_FL4),
    "focalnet_xlarge_fl3": replace(_LARGE, embed_dim=256, **_FL3),
    "focalnet_xlarge_fl4": replace(_LARGE, embed_dim=256, **_FL4),
    "focalnet_huge_fl3": replace(_HUGE, focal_levels=3, focal_windows=3),
    "focalnet_huge_fl4": replace(_HUGE, **_FL4),
}


def renames(config: FocalNetConfig) -> list[Rename]:
    """Official prefixes and ours; official downsampling ends a stage, ours begins the next."""
    block, mine = "layers.{s}.blocks.{b}.", "stages.{s}.blocks.{b}."
    return [
        Rename("patch_embed.", "stem."),
        Rename("layers.{s}.downsample.", "stages.{s+1}.downsample."),
        Rename(f"{block}modulation.focal_layers.{{l}}.0.", f"{mine}mixer.focal_layers.{{l}}."),
        Rename(f"{block}modulation.ln.", f"{mine}mixer.norm."),
        Rename(f"{block}modulation.", f"{mine}mixer."),
        Rename(f"{block}mlp.", f"{mine}channel_mixer."),
        Rename(f"{block}gamma_1", f"{mine}layer_scale1.gamma"),
        Rename(f"{block}gamma_2", f"{mine}layer_scale2.gamma"),
        Rename(block, mine),
        Rename("norm.", "norm."),
        Rename("head.", "head.fc."),
    ]


def infer_options(official: Mapping[str, Tensor]) -> dict:
    """Options that add keys, read off an official state dict."""
    levels = {}
    for key in official:
        if ".focal_layers." in key:
            stage, level = int(key.split(".")[1]), int(key.split("focal_layers.")[1].split(".")[0])
            levels[stage] = max(levels.get(stage, 0), level + 1)
    options: dict = {
        "use_layerscale": any(key.endswith("gamma_1") for key in official),
        "use_postln_in_modulation": any(".modulation.ln." in key for key in official),
    }
    if levels:
        options["focal_levels"] = tuple(levels[stage] for stage in sorted(levels))
    return options


register(Family(FocalNet, VARIANTS, renames, infer_options))
