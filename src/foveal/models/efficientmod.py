"""EfficientMod: efficient modulation for vision networks (Ma et al., ICLR 2024, arXiv 2403.19963).

Official code: github.com/ma-xu/EfficientMod, Apache-2.0 licence. Written afresh from the paper.

One unit is token mixer and MLP at once: the hidden features of an MLP are multiplied by a context
that a 7×7 depthwise convolution between two linear layers gathers. The context has as many
channels as the input and is repeated along the wider hidden layer. The hybrids end their last two
stages with plain attention blocks.

    y = fc2( GELU(fc1 x) ⊙ repeat_r( g(GELU(DW7(f x))) ) )                                 (eq. 4)

Deviations: none in value. The context is broadcast instead of repeated in memory, and
`output_stride` dilates the depthwise convolution, which the official code does not offer.
"""

# Shapes: b batch, c channels, h w height and width of the map, r expansion ratio.

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from timm.layers import DropPath, LayerNorm2d, LayerScale2d
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import OptionError
from foveal.kernels.depthwise_convolution import depthwise_convolution
from foveal.kernels.modulation_mlp import modulation_mlp
from foveal.kernels.shapes import laid_out
from foveal.layers.block import Block
from foveal.layers.conv_norm import ConvNorm, conv_norm_stem, downsampling
from foveal.layers.mlp import Mlp
from foveal.models.backbone import Backbone, BackboneConfig, Stage
from foveal.models.family import Family, Rename
from foveal.models.registry import register


@dataclass(frozen=True, kw_only=True)
class EfficientModConfig(BackboneConfig):
    """An EfficientMod in the paper's words.

    Attributes:
        embed_dim: channels per stage.
        depths: efficient modulation blocks per stage.
        attention_depth: attention blocks after them, per stage.
        ratio_cycle: expansion ratios that the modulation blocks of every stage go through.
        attention_ratio: expansion ratio of the attention blocks' MLP, one per stage.
        context_size: kernel of the context's depthwise convolution, odd.
    """

    embed_dim: Sequence[int] = (32, 64, 128, 256)
    depths: Sequence[int] = (2, 2, 6, 2)
    attention_depth: Sequence[int] = (0, 0, 1, 2)
    ratio_cycle: Sequence[int] = (1, 6)
    attention_ratio: Sequence[float] = (4, 4, 4, 4)
    context_size: int = 7

    def __post_init__(self) -> None:
        per_stage = (self.embed_dim, self.depths, self.attention_depth, self.attention_ratio)
        if len({len(values) for values in per_stage}) != 1:
            raise OptionError(
                "embed_dim, depths, attention_depth and attention_ratio take one value per stage, "
                f"got {', '.join(str(len(values)) for values in per_stage)} of them."
            )


class EfficientModulation(nn.Module):
    """Efficient modulation, (B, C, H, W) → (B, C, H, W), any C, H and W.

    Args:
        dim: channels C.
        ratio: r, hidden channels over C; with 1 the hidden features have no activation.
        context_size: kernel of the context's depthwise convolution, odd.
        dilation: of that convolution, for dense prediction at a finer stride.
    """

    def __init__(
        self,
        dim: int,
        ratio: int = 6,
        context_size: int = 7,
        *,
        dilation: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if ratio < 1 or context_size < 1 or context_size % 2 == 0:
            raise OptionError(
                "EfficientModulation takes a ratio from 1 up and an odd context_size from 1 up, "
                f"got {ratio} and {context_size}."
            )
        dd = {"device": device, "dtype": dtype}
        self.ratio = ratio
        self.f = nn.Linear(dim, dim, **dd)
        self.depthwise = nn.Conv2d(
            dim,
            dim,
            context_size,
            padding=dilation * (context_size // 2),
            dilation=dilation,
            groups=dim,
            **dd,
        )
        self.g = nn.Linear(dim, dim, **dd)
        self.fc1 = nn.Linear(dim, ratio * dim, **dd)
        self.fc2 = nn.Linear(ratio * dim, dim, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = x.permute(0, 2, 3, 1)
        return self._modulate(x, self._context(x)).permute(0, 3, 1, 2)

    def _context(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """ctx(x) = g(GELU(DW(f x)))."""
        return self.g(self._gathered(self.f(x)))

    def _gathered(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """GELU(DW x)."""
        conv, (dilation, _) = self.depthwise, self.depthwise.dilation
        filters = (conv.weight, conv.bias)
        return depthwise_convolution(x, *filters, activation="gelu", dilation=dilation)

    def _activated(self, hidden: Float[Tensor, "b h w rc"]) -> Float[Tensor, "b h w rc"]:
        """GELU(hidden), without the activation where r = 1."""
        return hidden if self.ratio == 1 else F.gelu(hidden)

    def _modulate(
        self, x: Float[Tensor, "b h w c"], context: Float[Tensor, "b h w c"]
    ) -> Float[Tensor, "b h w c"]:
        """fc2(GELU(fc1 x) ⊙ context), the context being the same for each of r channel groups."""
        activation = "none" if self.ratio == 1 else "gelu"
        return modulation_mlp(x, context, self.fc1, self.fc2, activation)

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """What forward computes on the way.

        Returns:
            context (b c h w), the modulation map, unbounded; hidden (b rc h w), what it multiplies.
        """
        x = x.permute(0, 2, 3, 1)
        named = {"context": self._context(x), "hidden": self._activated(self.fc1(x))}
        return {name: value.permute(0, 3, 1, 2) for name, value in named.items()}


class Attention(nn.Module):
    """Plain multi-head attention over all positions, (B, C, H, W) → (B, C, H, W).

    Args:
        dim: channels C.
        num_heads: heads, of max(C // num_heads, 32) channels each.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = max(dim // num_heads, 32)
        inner = num_heads * self.head_dim
        self.qkv = nn.Linear(dim, 3 * inner, bias=False, device=device, dtype=dtype)
        self.proj = nn.Linear(inner, dim, device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        h, w = x.shape[2:]
        query, key, value = self._split(x)
        out = F.scaled_dot_product_attention(query, key, value)
        out = self.proj(laid_out(out).transpose(1, 2).flatten(2))
        return out.unflatten(1, (h, w)).permute(0, 3, 1, 2)

    def _split(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k and v, each (b heads hw d)."""
        qkv = self.qkv(x.permute(0, 2, 3, 1).flatten(1, 2))
        return (
            qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
        )

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """attention (b heads hw hw), rows summing to 1; value (b heads hw d)."""
        query, key, value = self._split(x)
        logits = query @ key.transpose(-2, -1) * self.head_dim**-0.5
        return {"attention": logits.softmax(-1), "value": value}


class EfficientModBlock(nn.Module):
    """`x + γ · mixer(norm x)`: one branch, as the unit is token and channel mixer at once.

    Args:
        dim: channels.
        ratio: expansion of the unit.
        context_size: kernel of its context.
        drop_path: stochastic depth.
        dilation: of the context.
    """

    def __init__(
        self,
        dim: int,
        ratio: int,
        context_size: int,
        drop_path: float,
        dilation: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm = LayerNorm2d(dim, eps=1e-5, **dd)
        self.mixer = EfficientModulation(dim, ratio, context_size, dilation=dilation, **dd)
        self.layer_scale = LayerScale2d(dim, 1e-4, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.drop_path(self.layer_scale(self.mixer(self.norm(x))))


class EfficientMod(Backbone):
    """An EfficientMod, purely convolutional or with attention at the end of its last stages."""

    config: EfficientModConfig

    def __init__(
        self,
        config: EfficientModConfig = EfficientModConfig(),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        dd = {"device": device, "dtype": dtype}
        channels = list(config.embed_dim)
        reductions, dilations = config.strides(len(channels))
        depths = [a + b for a, b in zip(config.depths, config.attention_depth, strict=True)]
        stages = [
            Stage(
                _blocks(config, stage, rates, dilations[stage], dd),
                downsampling(
                    channels, reductions, dilations, stage, kernel_size=3, padding=1, **dd
                ),
            )
            for stage, rates in enumerate(config.drop_path_rates(depths))
        ]
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


def _blocks(
    config: EfficientModConfig, stage: int, rates: list[float], dilation: int, dd: dict
) -> list[nn.Module]:
    """The blocks of one stage: modulation first, attention last."""
    dim, blocks = config.embed_dim[stage], []
    for index, rate in enumerate(rates):
        if index < config.depths[stage]:
            ratio = config.ratio_cycle[index % len(config.ratio_cycle)]
            blocks.append(EfficientModBlock(dim, ratio, config.context_size, rate, dilation, **dd))
        else:
            mlp = Mlp(dim, config.attention_ratio[stage], **dd)
            norms = [LayerNorm2d(dim, eps=1e-5, **dd) for _ in range(2)]
            blocks.append(Block(Attention(dim, **dd), mlp, *norms, drop_path=rate))
    return blocks


_XXS = EfficientModConfig()

# The paper's table: channels, modulation blocks, attention blocks, ratios, drop path.
VARIANTS = {
    "efficientmod_xxs": _XXS,
    "efficientmod_xs": EfficientModConfig(
        embed_dim=(32, 64, 144, 288),
        depths=(3, 3, 4, 2),
        attention_depth=(0, 0, 3, 3),
        ratio_cycle=(1, 4),
    ),
    "efficientmod_s": EfficientModConfig(
        embed_dim=(32, 64, 144, 312),
        depths=(4, 4, 8, 4),
        attention_depth=(0, 0, 4, 4),
        attention_ratio=(4, 4, 4, 5),
        drop_path_rate=0.02,
    ),
    "efficientmod_s_conv": replace(
        _XXS,
        embed_dim=(40, 80, 160, 344),
        depths=(4, 4, 12, 8),
        attention_depth=(0, 0, 0, 0),
        drop_path_rate=0.02,
    ),
}


def renames(config: EfficientModConfig) -> list[Rename]:
    """Official prefixes and ours; `mlp` is the unit itself in a modulation block."""
    block, mine = "layers.{s}.blocks.{b}.", "stages.{s}.blocks.{b}."
    attention = [
        (stage, depth + index)
        for stage, depth in enumerate(config.depths)
        for index in range(config.attention_depth[stage])
    ]
    return [
        Rename("patch_embed.", "stem."),
        Rename("layers.{s}.downsample.", "stages.{s+1}.downsample."),
        *(
            Rename(f"layers.{s}.blocks.{b}.{official}.", f"stages.{s}.blocks.{b}.{ours}.")
            for s, b in attention
            for official, ours in (("attn", "mixer"), ("mlp", "channel_mixer"))
        ),
        Rename(f"{block}mlp.context_layer.context_list.0.", f"{mine}mixer.depthwise."),
        Rename(f"{block}mlp.context_layer.f.", f"{mine}mixer.f."),
        Rename(f"{block}mlp.context_layer.g.", f"{mine}mixer.g."),
        Rename(f"{block}mlp.", f"{mine}mixer."),
        Rename(f"{block}gamma_1", f"{mine}layer_scale.gamma"),
        Rename(block, mine),
        Rename("norm.", "norm."),
        Rename("head.", "head.fc."),
    ]


register(Family(EfficientMod, VARIANTS, renames))
