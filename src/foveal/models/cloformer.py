"""CloFormer: rethinking local perception (Fan et al., 2023, arXiv 2303.17803).

Official code: github.com/qhfan/CloFormer, MIT licence. Written afresh from the paper.

Two branches share the heads of each layer. The local one, AttnConv, gathers q, k and v with a
depthwise convolution, whose weights all positions share, and then multiplies v by weights made
from q ⊙ k, which are the position's own. The global one attends to an average-pooled map.

    local:   tanh( d^-½ · W₂ SiLU(W₁ (q ⊙ k)) ) ⊙ v,   q, k, v = DW(W x)                   (eq. 3-5)
    global:  softmax( d^-½ q kᵀ ) v,   k, v = W AvgPool(x)                                  (eq. 6)

Deviations: pooling takes a ragged edge as it is (ceil mode), where the official code fails; a
stage's strided last block is the next stage's downsampling, so that features are the last maps
of their stride.
"""

# Shapes: b batch, c channels, h w height and width of the map, n pooled cells, d channels a head.

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from timm.layers import DropPath, GroupNorm1
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import OptionError
from foveal.kernels.averaging import block_average
from foveal.kernels.depthwise_convolution import depthwise_convolution
from foveal.kernels.gated_product import gated_product
from foveal.kernels.shapes import laid_out
from foveal.layers.image_input import ImageConv2d
from foveal.models.backbone import Backbone, BackboneConfig, Stage
from foveal.models.family import Family, Rename
from foveal.models.registry import register


@dataclass(frozen=True, kw_only=True)
class CloFormerConfig(BackboneConfig):
    """A CloFormer in the paper's words.

    Attributes:
        embed_dims: channels per stage.
        depths: layers per stage, the strided one that ends it included.
        num_heads: heads per stage.
        group_splits: per stage, heads of each local group and, last, of the global branch.
        kernel_sizes: per stage, the depthwise kernel of each local group, odd.
        window_sizes: per stage, cells a side that the global branch pools into one.
        mlp_ratio: hidden channels of the ConvFFN over channels.
        mlp_kernel_size: its depthwise kernel, odd.
    """

    embed_dims: Sequence[int] = (32, 64, 128, 256)
    depths: Sequence[int] = (2, 2, 6, 2)
    num_heads: Sequence[int] = (4, 4, 8, 16)
    group_splits: Sequence[Sequence[int]] = ((3, 1), (2, 2), (4, 4), (4, 12))
    kernel_sizes: Sequence[Sequence[int]] = ((3,), (5,), (7,), (9,))
    window_sizes: Sequence[int] = (8, 4, 2, 1)
    mlp_ratio: float = 4.0
    mlp_kernel_size: int = 5
    drop_path_rate: float = 0.1


class AttnConv(nn.Module):
    """The local branch, (B, C, H, W) → (B, heads·d, H, W).

    Args:
        dim: channels C in.
        num_heads, head_dim: heads and channels a head of this group.
        kernel_size: of the depthwise convolution, odd.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        kernel_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        inner = num_heads * head_dim
        self.scale = head_dim**-0.5
        self.qkv = nn.Conv2d(dim, 3 * inner, 1, **dd)
        self.depthwise = nn.Conv2d(
            3 * inner, 3 * inner, kernel_size, padding=kernel_size // 2, groups=3 * inner, **dd
        )
        self.to_weights = nn.Sequential(
            nn.Conv2d(inner, inner, 1, **dd), nn.SiLU(), nn.Conv2d(inner, inner, 1, **dd)
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b g h w"]:
        logits, value = (t.permute(0, 2, 3, 1) for t in self._logits_and_value(x))
        return gated_product(logits, value, "tanh", self.scale).permute(0, 3, 1, 2)

    def _logits_and_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """W₂ SiLU(W₁ (q ⊙ k)), and v."""
        query, key, value = _convolved(self.qkv(x), self.depthwise).chunk(3, dim=1)
        return self.to_weights(query * key), value

    def weights_and_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The context-aware weights, in (−1, 1), and what they multiply."""
        logits, value = self._logits_and_value(x)
        return torch.tanh(self.scale * logits), value


class PooledAttention(nn.Module):
    """The global branch, (B, C, H, W) → (B, heads·d, H, W).

    Args:
        dim: channels C in.
        num_heads, head_dim: heads and channels a head.
        window_size: cells a side that are pooled into one key; 1 for none.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        window_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = num_heads
        self.window_size = window_size
        self.q = nn.Conv2d(dim, num_heads * head_dim, 1, **dd)
        self.kv = nn.Conv2d(dim, 2 * num_heads * head_dim, 1, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b g h w"]:
        out = F.scaled_dot_product_attention(*self.query_key_value(x))
        return laid_out(out).transpose(2, 3).flatten(1, 2).unflatten(2, x.shape[2:])

    def query_key_value(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (b heads hw d), k and v (b heads n d)."""
        key, value = self.kv(self._pool(x)).chunk(2, dim=1)
        query, key, value = (
            t.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)
            for t in (self.q(x), key, value)
        )
        return query, key, value

    def _pool(self, x: Tensor) -> Tensor:
        """Averages over window_size × window_size cells, fewer at a ragged edge."""
        if self.window_size == 1:
            return x
        return block_average(x.permute(0, 2, 3, 1), self.window_size).permute(0, 3, 1, 2)


class CloAttention(nn.Module):
    """Local AttnConv heads beside pooled global heads, (B, C, H, W) → (B, C, H, W).

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads in all.
        group_split: heads of each local group, then of the global branch; they add up to num_heads.
        kernel_sizes: depthwise kernel of each local group, odd, one less than group_split.
        window_size: cells a side that the global branch pools into one.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        group_split: Sequence[int] = (4, 4),
        kernel_sizes: Sequence[int] = (5,),
        window_size: int = 4,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if dim % num_heads or sum(group_split) != num_heads:
            raise OptionError(
                "CloAttention needs dim to be a multiple of num_heads and group_split to add up to "
                f"it, got dim {dim}, num_heads {num_heads}, group_split {tuple(group_split)}."
            )
        if len(kernel_sizes) != len(group_split) - 1:
            raise OptionError(
                f"CloAttention takes one kernel size per local group, {len(group_split) - 1} here "
                f"(the last of group_split is global), got {tuple(kernel_sizes)}."
            )
        dd = {"device": device, "dtype": dtype}
        *local_heads, global_heads = group_split
        d = dim // num_heads
        self.local = nn.ModuleList(
            AttnConv(dim, heads, d, kernel, **dd)
            for heads, kernel in zip(local_heads, kernel_sizes, strict=True)
            if heads
        )
        self.pooled = (
            PooledAttention(dim, global_heads, d, window_size, **dd) if global_heads else None
        )
        self.proj = nn.Conv2d(dim, dim, 1, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        branches = [*self.local, *([] if self.pooled is None else [self.pooled])]
        return self.proj(torch.cat([branch(x) for branch in branches], dim=1))

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """What forward computes on the way.

        Returns:
            local_weights_i in (−1, 1) and local_value_i (b g h w) of each local group; attention
            (b heads hw n), rows summing to 1, and value (b heads n d) of the global branch.
        """
        named = {}
        for index, branch in enumerate(self.local):
            assert isinstance(branch, AttnConv)
            weights, value = branch.weights_and_value(x)
            named |= {f"local_weights_{index}": weights, f"local_value_{index}": value}
        if self.pooled is not None:
            query, key, value = self.pooled.query_key_value(x)
            logits = query @ key.transpose(2, 3) * query.shape[-1] ** -0.5
            named |= {"attention": logits.softmax(-1), "value": value}
        return named


class ConvFFN(nn.Module):
    """`fc2(DW(GELU(fc1 x)))`, (B, C, H, W) → (B, out, H/stride, W/stride).

    Args:
        dim: channels C in.
        ratio: hidden channels over C.
        kernel_size: of the depthwise convolution, odd.
        stride: of the depthwise convolution.
        out_dim: channels out, C if not given.
    """

    def __init__(
        self,
        dim: int,
        ratio: float = 4.0,
        kernel_size: int = 5,
        stride: int = 1,
        out_dim: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        hidden = int(dim * ratio)
        self.fc1 = nn.Conv2d(dim, hidden, 1, **dd)
        self.depthwise = nn.Conv2d(
            hidden, hidden, kernel_size, stride, kernel_size // 2, groups=hidden, **dd
        )
        self.fc2 = nn.Conv2d(hidden, out_dim or dim, 1, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h2 w2"]:
        return self.fc2(_convolved(F.gelu(self.fc1(x)), self.depthwise))


def _convolved(x: Tensor, depthwise: nn.Conv2d) -> Tensor:
    """A depthwise convolution of a map (b c h w), fused where it keeps the map's size."""
    if depthwise.stride != (1, 1):
        return depthwise(x)
    out = depthwise_convolution(x.permute(0, 2, 3, 1), depthwise.weight, depthwise.bias)
    return out.permute(0, 3, 1, 2)


class CloLayer(nn.Module):
    """`x += attn(GN x); x = shortcut(x) + ConvFFN(GN x)`; with an `out_dim` it halves the map.

    Args:
        config: of the network.
        stage: whose heads, kernels and pooling it has.
        drop_path: stochastic depth.
        out_dim: channels after a strided layer; None for a layer that keeps the map's size.
    """

    def __init__(
        self,
        config: CloFormerConfig,
        stage: int,
        drop_path: float,
        out_dim: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        dim = config.embed_dims[stage]
        self.norm1 = GroupNorm1(dim, **dd)
        self.mixer = CloAttention(
            dim,
            config.num_heads[stage],
            config.group_splits[stage],
            config.kernel_sizes[stage],
            config.window_sizes[stage],
            **dd,
        )
        self.norm2 = GroupNorm1(dim, **dd)
        self.channel_mixer = ConvFFN(
            dim,
            config.mlp_ratio,
            config.mlp_kernel_size,
            stride=2 if out_dim else 1,
            out_dim=out_dim,
            **dd,
        )
        self.shortcut = (
            nn.Sequential(
                nn.Conv2d(dim, dim, 5, stride=2, padding=2, **dd),
                nn.BatchNorm2d(dim, **dd),
                nn.Conv2d(dim, out_dim, 1, **dd),
            )
            if out_dim
            else nn.Identity()
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o h2 w2"]:
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        return self.shortcut(x) + self.drop_path(self.channel_mixer(self.norm2(x)))


class CloFormer(Backbone):
    """A CloFormer."""

    config: CloFormerConfig

    def __init__(
        self,
        config: CloFormerConfig = CloFormerConfig(),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        dd = {"device": device, "dtype": dtype}
        config.refuse_output_stride("CloFormer")
        last = len(config.depths) - 1
        stages, downsample = [], None
        for stage, rates in enumerate(config.drop_path_rates(config.depths)):
            kept = rates if stage == last else rates[:-1]
            blocks = [CloLayer(config, stage, rate, **dd) for rate in kept]
            stages.append(Stage(blocks, downsample))
            if stage < last:
                downsample = CloLayer(config, stage, rates[-1], config.embed_dims[stage + 1], **dd)
        super().__init__(
            config,
            stem=_stem(config, dd),
            stages=stages,
            channels=config.embed_dims,
            reductions=config.strides(last + 1)[0],
            norm=GroupNorm1(config.embed_dims[-1], **dd),
            **dd,
        )


def _stem(config: CloFormerConfig, dd: dict) -> nn.Sequential:
    """Four 3×3 convolutions with batch norm and ReLU, the first two strided, then a 1×1 one.

    The first alone where `stem_stride` is 2.
    """
    dim = config.embed_dims[0]
    layers: list[tuple[str, nn.Module]] = []
    widths = [config.in_chans, dim // 2, dim, dim, dim]
    for index, stride in enumerate((2, config.first_stride() // 2, 1, 1)):
        conv = ImageConv2d if index == 0 else nn.Conv2d
        conv = conv(widths[index], widths[index + 1], 3, stride, 1, **dd)
        layers += [
            ("proj" if index == 0 else f"conv{index + 1}", conv),
            (f"norm{index + 1}", nn.BatchNorm2d(widths[index + 1], **dd)),
            (f"act{index + 1}", nn.ReLU()),
        ]
    layers += [("conv5", nn.Conv2d(dim, dim, 1, **dd)), ("norm", GroupNorm1(dim, **dd))]
    return nn.Sequential(OrderedDict(layers))


_XXS = CloFormerConfig()

# The paper's table; the last two are its ablations, on the global branch alone and without it.
VARIANTS = {
    "cloformer_xxs": _XXS,
    "cloformer_xs": replace(
        _XXS,
        embed_dims=(48, 96, 160, 352),
        num_heads=(3, 6, 10, 22),
        group_splits=((2, 1), (3, 3), (5, 5), (7, 15)),
    ),
    "cloformer_s": replace(
        _XXS,
        embed_dims=(64, 128, 224, 448),
        num_heads=(4, 8, 14, 28),
        group_splits=((3, 1), (4, 4), (7, 7), (7, 21)),
    ),
    "cloformer_xxs_global": replace(
        _XXS, group_splits=((4,), (4,), (8,), (16,)), kernel_sizes=((), (), (), ())
    ),
    "cloformer_xxs_no_global": replace(_XXS, group_splits=((4, 0), (4, 0), (8, 0), (16, 0))),
}


def renames(config: CloFormerConfig) -> list[Rename]:
    """Official prefixes and ours; the last layer of a stage is the next one's downsampling."""
    last = len(config.depths) - 1
    places = [
        (f"layers.{stage}.blocks.{config.depths[stage] - 1}.", f"stages.{stage + 1}.downsample.")
        for stage in range(last)
    ]
    places.append(("layers.{s}.blocks.{b}.", "stages.{s}.blocks.{b}."))
    parts = [
        ("attn.qkvs.{i}.", "mixer.local.{i}.qkv."),
        ("attn.convs.{i}.", "mixer.local.{i}.depthwise."),
        ("attn.act_blocks.{i}.act_block.", "mixer.local.{i}.to_weights."),
        ("attn.global_q.", "mixer.pooled.q."),
        ("attn.global_kv.", "mixer.pooled.kv."),
        ("attn.", "mixer."),
        ("mlp.dwconv.", "channel_mixer.depthwise."),
        ("mlp.", "channel_mixer."),
        ("downsample.", "shortcut."),
        ("", ""),
    ]
    return [
        Rename("patch_embed.conv1.conv.0.", "stem.proj."),
        Rename("patch_embed.conv5.", "stem.conv5."),
        Rename("patch_embed.conv{i}.conv.0.", "stem.conv{i}."),
        Rename("patch_embed.conv{i}.conv.1.", "stem.norm{i}."),
        Rename("patch_embed.layernorm.", "stem.norm."),
        *(Rename(official + a, mine + b) for official, mine in places for a, b in parts),
        Rename("norm.", "norm."),
        Rename("head.", "head.fc."),
    ]


register(Family(CloFormer, VARIANTS, renames))
