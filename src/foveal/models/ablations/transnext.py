"""The road from PVT to TransNeXt: one attention that takes on a part of TransNeXt's a step.

After the ablation of Shi (CVPR 2024, arXiv 2311.17132). Body, channels, heads and blocks are
TransNeXt's from the first step on; the token mixer starts as the spatial-reduction attention of
PVTv2 (Wang et al., 2022, arXiv 2106.13797) and the channel mixer as its convolutional feed-forward
network. Each step keeps what the steps before it brought:

    sr_attention          y = softmax(q k_pᵀ / √d) v_p,  k_p, v_p = W LN(conv_{s×s, stride s} x)
    pool                  k_p, v_p = W LN(AvgPool x)
    activate_and_pool     k_p, v_p = W LN(AvgPool(GELU(W' x)))
    pixel_focused         softmax( q [k_window ‖ k_p]ᵀ / √d + [b_local ‖ B] ), one for both
    query_embedding       (q + QE) in place of q in the logits
    positional_attention  A_window + q·T + t_b, after the softmax
    length_scaled_cosine  q̂, k̂ of length 1 and τ·log N in place of q, k and 1/√d
    conv_glu              the channel mixer is a ConvGLU, which makes it TransNeXt

Full attention, of the last stage, has x for its coarse map, and takes on B, QE and the cosine.
The position biases come with the pixel-focused path, whose equation they are a part of. This is
written out densely: a second implementation of TransNeXt, which tests hold equal to the first.
"""

# Shapes: b batch, n heads, h w sides of the map, hp wp of the coarse one, k window cells.

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import OptionError, closest
from foveal.kernels.averaging import adaptive_average
from foveal.kernels.precision import at_least_float32, full_precision
from foveal.models.ablations.replace import replace_units
from foveal.models.family import Family
from foveal.models.transnext import TransNeXt, TransNeXtConfig, _num_heads, _small, _temperature
from foveal.models.transnext_bias import LogSpacedPositionBias

STEPS = (
    "sr_attention",
    "pool",
    "activate_and_pool",
    "pixel_focused",
    "query_embedding",
    "positional_attention",
    "length_scaled_cosine",
    "conv_glu",
)


def has(step: str, part: str) -> bool:
    """Whether the network of a step has the part that another step brings.

    Raises:
        OptionError: no such step; names the closest and all.
    """
    if step not in STEPS:
        raise OptionError(
            f"Unknown step {step!r} of the road.{closest(step, STEPS)} "
            f"The steps are {', '.join(STEPS)}."
        )
    return STEPS.index(step) >= STEPS.index(part)


@dataclass(frozen=True, kw_only=True)
class TransNeXtRoadConfig(TransNeXtConfig):
    """A network on the road from PVT to TransNeXt.

    Attributes:
        step: how far it has come, one of `STEPS`.
    """

    step: str = STEPS[-1]
    drop_path_rate: float = 0.15

    def __post_init__(self) -> None:
        super().__post_init__()
        if not has(self.step, "pool") and self.pool_size is not None:
            raise OptionError(
                "sr_attention reduces the map by sr_ratios and pools to no fixed size: "
                f"leave pool_size out, got {self.pool_size}."
            )


class RoadAttention(nn.Module):
    """The attention of one step, (B, C, H, W) → (B, C, H, W), any H and W.

    Parameters are named as in `AggregatedAttention` and `FullAttention`, whose values those of the
    last two steps are.

    Args:
        dim, num_heads, sr_ratio, pool_size, window_size: as in `AggregatedAttention`.
        step: one of `STEPS`.
        full: attend to every position in place of window and coarse map.
        pretrain_size, position_bias, qkv_bias: as in `AggregatedAttention`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        step: str = STEPS[-1],
        sr_ratio: int = 8,
        pool_size: int | None = None,
        pretrain_size: int = 56,
        window_size: int = 3,
        position_bias: str = "extrapolate",
        *,
        full: bool = False,
        qkv_bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = heads = _num_heads(dim, num_heads)
        self.step, self.full = step, full
        self.sr_ratio, self.pool_size, self.window_size = sr_ratio, pool_size, window_size
        cells = window_size**2
        if full:
            self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias, **dd)
        else:
            self.q = nn.Linear(dim, dim, bias=qkv_bias, **dd)
            self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias, **dd)
            self.norm = nn.LayerNorm(dim, eps=1e-5, **dd)
            if not self._has("pool"):
                self.sr = nn.Conv2d(dim, dim, sr_ratio, stride=sr_ratio, **dd)
            elif self._has("activate_and_pool"):
                self.sr = nn.Conv2d(dim, dim, 1, **dd)
        if self._has("pixel_focused"):
            self.position_bias = LogSpacedPositionBias(heads, pretrain_size, position_bias, **dd)
        if self._has("query_embedding"):
            self.query_embedding = _small(heads, 1, dim // heads, **dd)
        if self._has("length_scaled_cosine"):
            self.temperature = _temperature(heads, dd)
        if self._has("pixel_focused") and not full:
            self.relative_pos_bias_local = _small(heads, cells, **dd)
        if self._has("positional_attention") and not full:
            self.learnable_tokens = _small(heads, dim // heads, cells, **dd)
            self.learnable_bias = nn.Parameter(torch.zeros(heads, 1, cells, **dd))
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query, key, value, coarse_key, coarse_value = self._project(x)
        with full_precision(x):
            fine, coarse = self._weights(query, key, coarse_key)
            y = torch.einsum("bnyxuv,bnuvd->byxnd", coarse, coarse_value)
            if fine is not None:
                y = y + torch.einsum("bnyxk,bnyxkd->byxnd", fine, self._windows(value))
        return self.proj(y.flatten(3).to(x.dtype)).permute(0, 3, 1, 2)

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """What forward computes on the way.

        Returns:
            pooled_attention (b n h w hp wp), to the coarse map; where there is a window also
            local_attention (b n h w k), positional attention included.
        """
        query, key, _, coarse_key, _ = self._project(x)
        with full_precision(x):
            fine, coarse = self._weights(query, key, coarse_key)
        named = {"pooled_attention": coarse}
        return named if fine is None else {**named, "local_attention": fine}

    def _has(self, part: str) -> bool:
        return has(self.step, part)

    def _project(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k, v of every position, k and v of the coarse map; (b n · · d), float32 or better."""
        cells = x.permute(0, 2, 3, 1)
        if self.full:
            query, key, value = self.qkv(cells).chunk(3, -1)
            projected = (query, key, value, key, value)
        else:
            fine, coarse = self.kv(cells).chunk(2, -1), self.kv(self._coarse(x)).chunk(2, -1)
            projected = (self.q(cells), *fine, *coarse)
        heads = (t.unflatten(-1, (self.num_heads, -1)).permute(0, 3, 1, 2, 4) for t in projected)
        return tuple(at_least_float32(t) for t in heads)

    def _coarse(self, x: Tensor) -> Tensor:
        """The map that k_p and v_p are made of, (b hp wp c)."""
        if not self._has("pool"):
            # Whole cells only, so that a ragged edge is seen and a map smaller than a cell is one.
            h, w = (-side % self.sr_ratio for side in x.shape[2:])
            return self.norm(self.sr(F.pad(x, (0, w, 0, h))).permute(0, 2, 3, 1))
        if self._has("activate_and_pool"):
            x = F.gelu(self.sr(x))
        cells = (self._coarse_side(x.shape[2]), self._coarse_side(x.shape[3]))
        return self.norm(adaptive_average(x.permute(0, 2, 3, 1), cells))

    def _coarse_side(self, side: int) -> int:
        return side if self.full else self.pool_size or max(side // self.sr_ratio, 1)

    def _weights(
        self, query: Tensor, key: Tensor, coarse_key: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """What each position takes of its window, (b n h w k) or None, and of the coarse map."""
        if self._has("length_scaled_cosine"):
            query, key, coarse_key = (F.normalize(t, dim=-1) for t in (query, key, coarse_key))
        inside = self._inside(key)
        scaled = self._scaled(query, inside, coarse_key.shape[2] * coarse_key.shape[3])
        coarse = torch.einsum("bnyxd,bnuvd->bnyxuv", scaled, coarse_key)
        if self._has("pixel_focused"):
            coarse = coarse + self._bias(query, coarse_key)
        cells = coarse.shape[4:]
        if inside is None:
            return None, coarse.flatten(4).softmax(-1).unflatten(-1, cells)
        fine = torch.einsum("bnyxd,bnyxkd->bnyxk", scaled, self._windows(key))
        fine = fine + at_least_float32(self.relative_pos_bias_local)[:, None, None]
        fine = fine.masked_fill(~inside, -torch.inf)
        together = torch.cat([fine, coarse.flatten(4)], -1).softmax(-1)
        fine, coarse = together.tensor_split([fine.shape[-1]], -1)
        if self._has("positional_attention"):
            tokens, bias = (
                at_least_float32(t) for t in (self.learnable_tokens, self.learnable_bias)
            )
            fine = fine + torch.einsum("bnyxd,ndk->bnyxk", query, tokens) + bias[:, None]
        return fine, coarse.unflatten(-1, cells)

    def _scaled(self, query: Tensor, inside: Tensor | None, num_coarse: int) -> Tensor:
        """The query as the logits see it: with QE, and times 1/√d or τ·log N."""
        if self._has("query_embedding"):
            query = query + at_least_float32(self.query_embedding)[:, None]
        if not self._has("length_scaled_cosine"):
            return query * query.shape[-1] ** -0.5
        window = query.new_zeros(1, 1) if inside is None else inside.sum(-1)
        temperature = F.softplus(at_least_float32(self.temperature))
        return query * (temperature * (window + num_coarse).log().to(query.dtype))[..., None]

    def _bias(self, query: Tensor, coarse_key: Tensor) -> Tensor:
        """B, (n h w hp wp)."""
        trained = self._coarse_side(self.position_bias.pretrain_size)
        bias = self.position_bias(trained).at(query.shape[2:4], coarse_key.shape[2:4])
        return bias.of_rows(0, query.shape[2])

    def _inside(self, key: Tensor) -> Tensor | None:
        """Which cells of each position's window are on the map, (h w k); None without windows."""
        if self.full or not self._has("pixel_focused"):
            return None
        return self._windows(torch.ones_like(key[:1, :1, ..., :1]))[0, 0, ..., 0] > 0

    def _windows(self, t: Float[Tensor, "b n h w d"]) -> Float[Tensor, "b n h w k d"]:
        """The window around every position in row-major order, zeros off the map."""
        heads, height, width = t.shape[1:4]
        maps, side = t.permute(0, 1, 4, 2, 3).flatten(1, 2), self.window_size
        cells = F.unfold(maps, side, padding=side // 2).unflatten(2, (height, width))
        return cells.unflatten(1, (heads, -1, side**2)).permute(0, 1, 4, 5, 3, 2)


class ConvFeedForward(nn.Module):
    """`fc2(GELU(DW3(fc1 x)))`, PVTv2's channel mixer, (B, C, H, W) → (B, C, H, W).

    Args:
        dim: channels C.
        ratio: hidden channels over C.
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
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **dd)
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        hidden = self.dwconv(self.fc1(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return self.fc2(F.gelu(hidden).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class TransNeXtRoad(TransNeXt):
    """A TransNeXt that has come as far as a step of the road."""

    def __init__(
        self,
        config: TransNeXtRoadConfig = TransNeXtRoadConfig(),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        dd = {"device": device, "dtype": dtype}
        super().__init__(config, **dd)

        def attention(stage: int, _: nn.Module) -> nn.Module:
            return RoadAttention(
                config.embed_dims[stage],
                config.num_heads[stage],
                config.step,
                config.sr_ratios[stage],
                config.pool_size,
                config.pretrain_side(stage),
                config.window_size,
                config.position_bias,
                full=config.token_mixers[stage] == "M",
                qkv_bias=config.qkv_bias,
                **dd,
            )

        def feed_forward(stage: int, _: nn.Module) -> nn.Module:
            return ConvFeedForward(config.embed_dims[stage], config.mlp_ratios[stage], **dd)

        replace_units(self, "mixer", attention)
        if not has(config.step, "conv_glu"):
            replace_units(self, "channel_mixer", feed_forward)


BODY = Family(TransNeXtRoad, {"transnext_road": TransNeXtRoadConfig()}, lambda _: [])
