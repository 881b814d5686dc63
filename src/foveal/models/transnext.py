"""TransNeXt: aggregated attention and convolutional GLU (Shi, CVPR 2024, arXiv 2311.17132).

Official code: github.com/DaiShiResearch/TransNeXt, Apache-2.0. Written afresh from the paper.

As an eye does, every position looks sharply at the pixels around it and dimly at the whole image:
its window and the pooled map compete in one softmax. A learned query embedding and learned tokens
bring queries and positions that do not depend on the content. Temperature and position bias follow
the number of keys and their distance, so that the attention extrapolates to other image sizes.

    y(i) = Σ_{j ∈ window} (A(i, j) + q̂(i)·T(j) + t_b(j)) v(j) + Σ_p A(i, p) v_pool(p)
    A(i, ·) = softmax( τ log N(i) · (q̂(i) + QE) [k̂ ‖ k̂_pool]ᵀ + [b_local ‖ B] )

Deviations: none in value. The position bias is evaluated once per displacement instead of once per
pair, the window is never unfolded, and rows are processed in chunks where memory would run out.
"""

# Shapes: b batch, c channels, h w height and width of the map, n heads, hp wp of the pooled map.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import exp, log, sqrt

import torch
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import OptionError
from foveal.kernels.aggregated_attention import (
    AttentionTerms,
    aggregated_attention,
    aggregated_attention_weights,
)
from foveal.kernels.averaging import adaptive_average
from foveal.kernels.biased_attention import biased_attention, biased_attention_weights
from foveal.kernels.depthwise_convolution import depthwise_convolution
from foveal.kernels.position_bias import LogSpacedBias
from foveal.kernels.precision import at_least_float32, full_precision
from foveal.layers.block import Block
from foveal.layers.conv_norm import ConvNorm, conv_norm_stem
from foveal.models.backbone import Backbone, BackboneConfig, Stage
from foveal.models.family import Family, Rename
from foveal.models.registry import register
from foveal.models.transnext_bias import LogSpacedPositionBias

HEAD_DIM = 24


@dataclass(frozen=True, kw_only=True)
class TransNeXtConfig(BackboneConfig):
    """A TransNeXt in the paper's words.

    Attributes:
        embed_dims, num_heads, depths: channels, heads and blocks per stage.
        token_mixers: a letter per stage, "A" aggregated attention, "M" full attention.
        mlp_ratios: of each stage's ConvGLU.
        sr_ratios: positions per pooled cell and axis, per stage.
        window_size: side of the window, odd.
        pretrain_size: side in pixels of the images that the position bias is calibrated to.
        pool_size: side of the pooled map whatever the image (linear complexity), or None.
        position_bias: at other sizes, "extrapolate" it or "interpolate" the calibrated one.
        qkv_bias: whether queries, keys and values have a bias.
    """

    embed_dims: Sequence[int] = (48, 96, 192, 384)
    num_heads: Sequence[int] = (2, 4, 8, 16)
    depths: Sequence[int] = (2, 2, 15, 2)
    token_mixers: str = "AAAM"
    mlp_ratios: Sequence[float] = (8, 8, 4, 4)
    sr_ratios: Sequence[int] = (8, 4, 2, 1)
    window_size: int = 3
    pretrain_size: int = 224
    pool_size: int | None = None
    position_bias: str = "extrapolate"
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        if set(self.token_mixers) - set("AM"):
            raise OptionError(f"token_mixers is made of A and M, got {self.token_mixers!r}.")
        for name in ("embed_dims", "num_heads", "token_mixers", "mlp_ratios", "sr_ratios"):
            if len(getattr(self, name)) != len(self.depths):
                raise OptionError(
                    f"{name} takes one value per stage: {len(self.depths)} stages, "
                    f"got {getattr(self, name)!r}."
                )
        if self.pretrain_size < 1:
            raise OptionError(f"pretrain_size is a side in pixels, got {self.pretrain_size}.")

    def pretrain_side(self, stage: int) -> int:
        """Side in cells of a stage's map at pretraining."""
        return max(self.pretrain_size // (self.first_stride() * 2**stage), 1)


class AggregatedAttention(nn.Module):
    """Aggregated attention, (B, C, H, W) → (B, C, H, W), any H and W.

    Args:
        dim: channels C.
        num_heads: must divide dim; by default heads of 24 channels, or as few more as divide dim.
        sr_ratio: positions per pooled cell and axis.
        pool_size: side of the pooled map whatever the map's, or None.
        pretrain_size: side in cells of the map that the position bias is calibrated to.
        window_size: side of the window, odd.
        position_bias: "extrapolate" or "interpolate".
        qkv_bias: whether queries, keys and values have a bias.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        sr_ratio: int = 8,
        pool_size: int | None = None,
        pretrain_size: int = 56,
        window_size: int = 3,
        position_bias: str = "extrapolate",
        *,
        qkv_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if window_size < 1 or window_size % 2 == 0:
            raise OptionError(f"window_size is an odd number from 1 up, got {window_size}.")
        if sr_ratio < 1 or (pool_size is not None and pool_size < 1):
            raise OptionError(
                "sr_ratio is an integer from 1 up, pool_size too or None, "
                f"got {sr_ratio} and {pool_size}."
            )
        dd = {"device": device, "dtype": dtype}
        self.num_heads = heads = _num_heads(dim, num_heads)
        self.sr_ratio = sr_ratio
        self.pool_size = pool_size
        cells = window_size**2
        self.temperature = _temperature(heads, dd)
        self.query_embedding = _small(heads, 1, dim // heads, **dd)
        self.relative_pos_bias_local = _small(heads, cells, **dd)
        self.learnable_tokens = _small(heads, dim // heads, cells, **dd)
        self.learnable_bias = nn.Parameter(torch.zeros(heads, 1, cells, **dd))
        self.q = nn.Linear(dim, dim, bias=qkv_bias, **dd)
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias, **dd)
        self.sr = nn.Conv2d(dim, dim, 1, **dd)
        self.norm = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.position_bias = LogSpacedPositionBias(heads, pretrain_size, position_bias, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query, key, value, pooled_key, pooled_value = self._project(x)
        learned = (self._terms(), self._bias())
        y = aggregated_attention(query, key, value, pooled_key, pooled_value, *learned)
        # Step 5: y = proj(A_local·v_window + A_pool·v_pool).
        return self.proj(y.flatten(3)).permute(0, 3, 1, 2)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Step 1: q, k, v of every position and k, v of every pooled cell, (b · · n d)."""
        heads = (self.num_heads, -1)
        cells = x.permute(0, 2, 3, 1)
        key, value = self.kv(cells).chunk(2, -1)
        pooled_key, pooled_value = self.kv(self._pool(x)).chunk(2, -1)
        projected = (self.q(cells), key, value, pooled_key, pooled_value)
        return tuple(t.unflatten(-1, heads) for t in projected)

    def _pool(self, x: Tensor) -> Tensor:
        """Step 2, activate and pool: LN(AvgPool(GELU(conv x))), (b hp wp c)."""
        cells = (self._pooled_side(x.shape[2]), self._pooled_side(x.shape[3]))
        x = F.gelu(self.sr(x)).permute(0, 2, 3, 1)
        return self.norm(adaptive_average(x, cells))

    def _pooled_side(self, side: int) -> int:
        # While exporting, the sides are symbols.
        return self.pool_size or torch.sym_max(side // self.sr_ratio, 1)  # pyright: ignore[reportReturnType]

    def _bias(self) -> LogSpacedBias:
        """Step 3: B between every position and every pooled cell."""
        return self.position_bias(self._pooled_side(self.position_bias.pretrain_size))

    def _terms(self) -> AttentionTerms:
        """Step 4: QE, softplus(τ), b_local, T and t_b."""
        terms = AttentionTerms(
            self.query_embedding.squeeze(1),
            self.temperature.flatten(),
            self.relative_pos_bias_local,
            self.learnable_tokens,
            self.learnable_bias.squeeze(1),
        )
        terms = AttentionTerms(*(at_least_float32(term) for term in terms))
        return terms._replace(scale=F.softplus(terms.scale))

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """What forward computes on the way.

        Returns:
            local_attention, positional_attention (b n h w window²), the latter added to the former;
            pooled_attention (b n h w hp wp), sums to 1 with local_attention; temperature (n),
            softplus(τ); value (b c h w), pooled_value (b c hp wp).
        """
        query, key, value, pooled_key, pooled_value = self._project(x)
        terms = self._terms()
        weights = aggregated_attention_weights(query, key, pooled_key, terms, self._bias())
        return {
            "local_attention": weights.local,
            "positional_attention": weights.positional,
            "pooled_attention": weights.pooled,
            "temperature": terms.scale,
            "value": value.flatten(3).permute(0, 3, 1, 2),
            "pooled_value": pooled_value.flatten(3).permute(0, 3, 1, 2),
        }


class FullAttention(nn.Module):
    """Attention of every position to every position, (B, C, H, W) → (B, C, H, W), any H and W.

    Args:
        dim, num_heads, position_bias, qkv_bias: as in AggregatedAttention.
        pretrain_size: side in cells of the map that the position bias is calibrated to.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        pretrain_size: int = 7,
        position_bias: str = "extrapolate",
        *,
        qkv_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = heads = _num_heads(dim, num_heads)
        self.temperature = _temperature(heads, dd)
        self.query_embedding = _small(heads, 1, dim // heads, **dd)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        self.position_bias = LogSpacedPositionBias(heads, pretrain_size, position_bias, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        # Step 3: y = proj(softmax(Q k̂ᵀ + B) v).
        y = biased_attention(*self._project(x)).permute(0, 2, 3, 1, 4).flatten(3)
        return self.proj(y.to(x.dtype)).permute(0, 3, 1, 2)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, LogSpacedBias]:
        """Steps 1 and 2: Q = (q̂ + QE)·τ log N, k̂ and v, (b n h w d), and B."""
        qkv = self.qkv(x.permute(0, 2, 3, 1)).unflatten(-1, (3, self.num_heads, -1))
        size = tuple(x.shape[2:])
        bias = self.position_bias(self.position_bias.pretrain_size)
        with full_precision(x):
            query, key, value = at_least_float32(qkv).permute(3, 0, 4, 1, 2, 5).unbind(0)
            query = F.normalize(query, dim=-1) + at_least_float32(self.query_embedding)[:, None]
            num_keys = query.new_ones(()) * (size[0] * size[1])
            scale = self._scale()[:, None, None, None] * num_keys.log()
            return query * scale, F.normalize(key, dim=-1), value, bias

    def _scale(self) -> Tensor:
        return F.softplus(at_least_float32(self.temperature.flatten()))

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """What forward computes on the way.

        Returns:
            attention (b n h w h w), sums to 1 over the last two; temperature (n), softplus(τ);
            value (b c h w).
        """
        query, key, value, bias = self._project(x)
        return {
            "attention": biased_attention_weights(query, key, bias),
            "temperature": self._scale(),
            "value": value.permute(0, 1, 4, 2, 3).flatten(1, 2),
        }


class ConvGLU(nn.Module):
    """`fc2(GELU(DW3(a)) ⊙ v)` with `a, v = split(fc1 x)`, (B, C, H, W) → (B, C, H, W).

    Args:
        dim: channels C.
        ratio: two thirds of it is the ratio of hidden channels to C.
    """

    def __init__(
        self,
        dim: int,
        ratio: float = 4.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        hidden = int(2 / 3 * ratio * dim)
        self.fc1 = nn.Linear(dim, 2 * hidden, **dd)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **dd)
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        a, value = self.fc1(x.permute(0, 2, 3, 1)).chunk(2, -1)
        return self.fc2(self._gate(a, value)).permute(0, 3, 1, 2)

    def _gate(self, a: Tensor, value: Tensor | None) -> Tensor:
        """GELU(DW3(a)) on the value that it opens for, or alone, (b h w hidden)."""
        weight, bias = self.dwconv.weight, self.dwconv.bias
        return depthwise_convolution(a, weight, bias, gate=value, activation="gelu")

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """What forward computes on the way: gate and value, each (b hidden h w)."""
        a, value = self.fc1(x.permute(0, 2, 3, 1)).chunk(2, -1)
        named = {"gate": self._gate(a, None), "value": value}
        return {name: t.permute(0, 3, 1, 2) for name, t in named.items()}


def _num_heads(dim: int, num_heads: int | None) -> int:
    """The given number of heads if it divides `dim`, or the most with 24 channels or more."""
    if num_heads is None:
        most = max(dim // HEAD_DIM, 1)
        return next(heads for heads in range(most, 0, -1) if dim % heads == 0)
    if num_heads < 1 or dim % num_heads:
        raise OptionError(f"num_heads must divide the {dim} channels, got {num_heads}.")
    return num_heads


def _temperature(heads: int, dd: dict) -> nn.Parameter:
    """τ with softplus(τ) = 1/0.24."""
    return nn.Parameter(torch.full((heads, 1, 1), log(exp(1 / 0.24) - 1), **dd))


def _small(*shape: int, **dd) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape, **dd), std=0.02))


def _block(config: TransNeXtConfig, stage: int, drop_path: float, dd: dict) -> Block:
    dim, heads = config.embed_dims[stage], config.num_heads[stage]
    options = {
        "pretrain_size": config.pretrain_side(stage),
        "position_bias": config.position_bias,
        "qkv_bias": config.qkv_bias,
        **dd,
    }
    if config.token_mixers[stage] == "A":
        options |= {"sr_ratio": config.sr_ratios[stage], "pool_size": config.pool_size}
        mixer = AggregatedAttention(dim, heads, window_size=config.window_size, **options)
    else:
        mixer = FullAttention(dim, heads, **options)
    return Block(
        mixer,
        ConvGLU(dim, config.mlp_ratios[stage], **dd),
        LayerNorm2d(dim, eps=1e-6, **dd),
        LayerNorm2d(dim, eps=1e-6, **dd),
        drop_path,
    )


class TransNeXt(Backbone):
    """A TransNeXt; each of its maps is normed at the end of its stage."""

    config: TransNeXtConfig

    def __init__(
        self,
        config: TransNeXtConfig = TransNeXtConfig(),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        dd = {"device": device, "dtype": dtype}
        config.refuse_output_stride("TransNeXt")
        dims = list(config.embed_dims)
        stages = [
            Stage(
                [_block(config, stage, rate, dd) for rate in rates],
                ConvNorm(dims[stage - 1], dims[stage], kernel_size=3, stride=2, padding=1, **dd)
                if stage
                else None,
                LayerNorm2d(dims[stage], eps=1e-6, **dd),
            )
            for stage, rates in enumerate(config.drop_path_rates(config.depths))
        ]
        stem = ConvNorm(
            config.in_chans,
            dims[0],
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
            channels=dims,
            reductions=config.strides(len(dims))[0],
            norm=nn.Identity(),
            **dd,
        )

    @property
    def coarsest_cell(self) -> int:
        """Pixels per cell and axis of the coarsest map, those that attention pools among them."""
        config = self.config
        stages = zip(self.feature_info, config.token_mixers, config.sr_ratios, strict=True)
        pooled = [s["reduction"] * ratio for s, mixer, ratio in stages if mixer == "A"]
        return max([super().coarsest_cell, *([] if config.pool_size else pooled)])

    def init_weights_of(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, std=sqrt(2 * module.groups / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        super().init_weights_of(module)

    def no_weight_decay(self) -> set[str]:
        names = ("temperature", "query_embedding", "relative_pos_bias_local", "position_bias.*")
        return {f"*.{name}" for name in names}


_MICRO = TransNeXtConfig(drop_path_rate=0.15)
_TINY = replace(
    _MICRO, embed_dims=(72, 144, 288, 576), num_heads=(3, 6, 12, 24), drop_path_rate=0.25
)
_BASE = {"embed_dims": (96, 192, 384, 768), "num_heads": (4, 8, 16, 32)}

# The paper's variants; aaaa has aggregated attention in all four stages and 256×256 images.
VARIANTS = {
    "transnext_micro": _MICRO,
    "transnext_tiny": _TINY,
    "transnext_small": replace(_TINY, depths=(5, 5, 22, 5), drop_path_rate=0.45),
    "transnext_base": replace(_TINY, **_BASE, depths=(5, 5, 23, 5), drop_path_rate=0.6),
    "transnext_micro_aaaa": replace(
        _MICRO, token_mixers="AAAA", sr_ratios=(16, 8, 4, 2), pretrain_size=256
    ),
}


def renames(config: TransNeXtConfig) -> list[Rename]:
    """Official prefixes and ours; official stages count from 1 and have no module of their own."""
    block, mine = "block{s+1}.{b}.", "stages.{s}.blocks.{b}."
    return [
        Rename("patch_embed1.", "stem."),
        Rename("patch_embed{s+1}.", "stages.{s}.downsample."),
        Rename(f"{block}attn.cpb_", f"{mine}mixer.position_bias."),
        Rename(f"{block}attn.", f"{mine}mixer."),
        Rename(f"{block}mlp.dwconv.dwconv.", f"{mine}channel_mixer.dwconv."),
        Rename(f"{block}mlp.", f"{mine}channel_mixer."),
        Rename(block, mine),
        Rename("norm{s+1}.", "stages.{s}.norm."),
        Rename("head.", "head.fc."),
    ]


def infer_options(official: Mapping[str, Tensor]) -> dict:
    """Options that add keys, read off an official state dict."""
    return {"qkv_bias": any(key.endswith(("attn.q.bias", "attn.qkv.bias")) for key in official)}


register(Family(TransNeXt, VARIANTS, renames, infer_options))
