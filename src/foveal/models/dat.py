"""DAT and DAT++: vision transformers with deformable attention (Xia et al., arXiv 2201.00520, CVPR
2022, and arXiv 2309.01430).

Official code: github.com/LeapLabTHU/DAT, Apache-2.0 licence. Written afresh from the papers.

All queries of an image share a small set of keys, and the image decides where those are: a grid of
reference points is moved by offsets that a light network reads off the queries. The map is sampled
at the moved points, keys and values are made of the samples, and a bias is read between the cells
of a table at the distance of query and key. Local attention takes turns with it: (shifted) windows
in DAT, neighbourhoods in DAT++.

    y = W_o softmax( q(x) k(x̃)ᵀ / √d + bias(query − p) ) v(x̃),  x̃ = x sampled at p = ref + Δ(q)

Deviations: none in value at the trained size. Maps smaller than a window, and ragged ones, are
zero-padded as in the authors' detection code. A grid of one cell has its point at 0, where the
official formulas divide by zero. Without offsets, the bias uses the reference points as positions.
"""

# Shapes: b batch, c channels, h w map, g groups, hk wk grid of keys, n = hk·wk keys.

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import OptionError
from foveal.kernels import deformable_attention as deformable
from foveal.kernels.averaging import block_average
from foveal.kernels.grids import cell_centres, corner_grid
from foveal.kernels.precision import at_least_float32, full_precision
from foveal.kernels.shapes import at_least, reshape
from foveal.layers.conv_norm import ConvNorm, conv_norm_stem
from foveal.layers.mlp import Mlp
from foveal.models import dat_local as local
from foveal.models import dat_official as official
from foveal.models.backbone import Backbone, BackboneConfig, Stage
from foveal.models.dat_bias import PositionBias
from foveal.models.family import Family, Rename
from foveal.models.registry import register


@dataclass(frozen=True, kw_only=True)
class DATConfig(BackboneConfig):
    """A DAT in the papers' words. Sequences have one entry per stage.

    Attributes:
        dims: channels.
        depths: blocks.
        stage_spec: which attention each block has, repeated to the stage's depth: L local window,
            S shifted window, D deformable, N neighbourhood.
        num_heads: attention heads.
        num_groups: of channels that share offsets in deformable attention.
        offset_strides: positions per key of deformable attention, each way.
        offset_kernels: of the offset network's depthwise convolution.
        offset_range_factor: reach of the offsets in cells; negative: anywhere, kept on the map.
        use_offsets: False for average-pooled keys in place of deformed ones.
        position_bias: of deformable attention: "table" (by displacement), "fixed" (by pair),
            "log_cpb" (an MLP of the displacement), "dwc" (a convolution of the queries), "none".
        corner_aligned: the conventions of DAT++: query grid from corner to corner, references over
            side − 1, offsets clamped. False: cell centres and tanh, as in DAT.
        img_size: the trained side in pixels, which sizes the tables.
        window_size: of L and S.
        neighborhood_size: of N, odd.
        mlp_ratio: hidden channels of the MLP over channels.
        use_conv_embed: overlapping convolutions for the stem and the downsampling.
        use_conv_mlp: a depthwise convolution inside the MLP.
        use_local_perception: a depthwise convolution at the start of every block.
    """

    dims: Sequence[int] = (96, 192, 384, 768)
    depths: Sequence[int] = (2, 2, 6, 2)
    stage_spec: Sequence[str] = ("LS", "LS", "LD", "LD")
    num_heads: Sequence[int] = (3, 6, 12, 24)
    num_groups: Sequence[int] = (1, 1, 3, 6)
    offset_strides: Sequence[int] = (1, 1, 1, 1)
    offset_kernels: Sequence[int] = (9, 7, 5, 3)
    offset_range_factor: float | Sequence[float] = 2
    use_offsets: bool = True
    position_bias: str = "table"
    corner_aligned: bool = False
    img_size: int = 224
    window_size: int = 7
    neighborhood_size: int = 7
    mlp_ratio: float = 4.0
    use_conv_embed: bool = False
    use_conv_mlp: bool = False
    use_local_perception: bool = False

    def __post_init__(self):
        per_stage = ["dims", "stage_spec", "num_heads", "num_groups"]
        per_stage += ["offset_strides", "offset_kernels"]
        if not isinstance(self.offset_range_factor, (int, float)):
            per_stage.append("offset_range_factor")
        for name in per_stage:
            if len(getattr(self, name)) != len(self.depths):
                raise OptionError(
                    f"{name} has one entry per stage: {len(self.depths)} stages by depths, "
                    f"got {getattr(self, name)!r}."
                )
        if not all(spec and set(spec) <= set("LSDN") for spec in self.stage_spec):
            raise OptionError(
                "stage_spec takes the letters L, S, D and N, at least one per stage, "
                f"got {self.stage_spec!r}."
            )
        if self.trained_side(len(self.depths) - 1) < 1:
            raise OptionError(f"img_size is smaller than one cell of the map: {self.img_size}.")

    def kinds(self) -> list[str]:
        """The letter of every block, one string per stage."""
        specs = zip(self.stage_spec, self.depths, strict=True)
        return [(spec * depth)[:depth] for spec, depth in specs]

    def trained_side(self, stage: int) -> int:
        """Cells a side of a stage's map at the trained size."""
        return self.img_size // (self.first_stride() * 2**stage)

    def range_factor(self, stage: int) -> float:
        """The offset range factor of a stage."""
        factor = self.offset_range_factor
        return factor if isinstance(factor, (int, float)) else factor[stage]


class OffsetNetwork(nn.Module):
    """Step 1: the offsets of all groups, whose weights they share, from the queries.

    Args:
        dim: channels of one group.
        num_groups: groups.
        kernel_size, stride: of the depthwise convolution; no padding where both are the same.
    """

    def __init__(
        self,
        dim: int,
        num_groups: int,
        kernel_size: int,
        stride: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        padding = 0 if kernel_size == stride else kernel_size // 2
        self.num_groups = num_groups
        self.least = kernel_size - 2 * padding
        self.depthwise = nn.Conv2d(dim, dim, kernel_size, stride, padding, groups=dim, **dd)
        self.norm = nn.LayerNorm(dim, eps=1e-5, **dd)
        self.pointwise = nn.Conv2d(dim, 2, 1, bias=False, **dd)

    def forward(self, q: Float[Tensor, "b c h w"]) -> Float[Tensor, "b g hk wk 2"]:
        if self.least > 1:
            missing = [at_least(n, self.least) - n for n in q.shape[2:]]
            q = F.pad(q, (0, missing[1], 0, missing[0]))
        conv, groups = self.depthwise, self.num_groups
        assert conv.bias is not None
        # One convolution over all channels, with the shared kernels repeated for every group.
        weight, bias = conv.weight.repeat(groups, 1, 1, 1), conv.bias.repeat(groups)
        u = F.conv2d(q, weight, bias, conv.stride, conv.padding, groups=q.shape[1])
        u = F.gelu(self.norm(u.permute(0, 2, 3, 1).unflatten(3, (groups, -1))))
        u = at_least_float32(u)
        with full_precision(u):
            weights = self.pointwise.weight.flatten(1).to(u.dtype)
            offsets = torch.stack([(u * weight).sum(-1) for weight in weights], -1)
        return offsets.permute(0, 3, 1, 2, 4).contiguous()


class DeformableAttention(nn.Module):
    """Deformable attention ('D'), (B, C, H, W) → (B, C, H, W), any H and W.

    Args:
        dim: channels C, a multiple of the heads.
        num_heads: heads, a multiple of the groups; by default about one per 32 channels.
        num_groups: groups of channels, each with its own offsets.
        stride: positions per key, each way; 1 makes as many keys as queries.
        offset_kernel: of the offset network's depthwise convolution.
        offset_range_factor: reach of the offsets in cells; negative: anywhere, kept on the map.
        table_size: the map's (H, W), or side, that the tables are sized for; others are looked up
            at the normalised displacement, between the cells.
        position_bias: "table", "fixed", "log_cpb", "dwc" or "none".
        use_offsets: False for average-pooled keys.
        corner_aligned: the conventions of DAT++ (True) or DAT for grids and their limits.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        num_groups: int = 1,
        *,
        stride: int = 2,
        offset_kernel: int = 5,
        offset_range_factor: float = -1,
        table_size: int | tuple[int, int] = 14,
        position_bias: str = "table",
        use_offsets: bool = True,
        corner_aligned: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_heads = local.resolve_heads(dim, num_heads)
        _check_deformable(self.num_heads, num_groups, stride, offset_kernel)
        self.num_groups = num_groups
        self.stride = stride
        self.offset_range_factor = offset_range_factor
        self.corner_aligned = corner_aligned
        self.table_size = (table_size, table_size) if isinstance(table_size, int) else table_size
        self.query = nn.Conv2d(dim, dim, 1, **dd)
        self.key = nn.Conv2d(dim, dim, 1, **dd)
        self.value = nn.Conv2d(dim, dim, 1, **dd)
        self.proj = nn.Conv2d(dim, dim, 1, **dd)
        self.offset_network: OffsetNetwork | None = None
        if use_offsets:
            group = (dim // num_groups, num_groups, offset_kernel, stride)
            self.offset_network = OffsetNetwork(*group, **dd)
        keys = self._key_sides(self.table_size, offset_kernel)
        self.position_bias = PositionBias(
            position_bias, self.num_heads, num_groups, self.table_size, keys, **dd
        )
        self.position_conv: nn.Module | None = None
        if position_bias == "dwc":
            self.position_conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query = self.query(x)
        *_, positions = self._points(query)
        q, k, v = self._heads(query, self._sample(x, positions))
        grid = self._query_grid(query, positions)
        if self.position_bias.form == "table":
            table, points = self.position_bias.table, positions.flatten(2, 3)
            out = deformable.deformable_attention(
                q, k, v, points, table, *grid, corner_aligned=self.corner_aligned
            )
        else:
            out = deformable.attend(q, k, v, self.position_bias(positions, *grid))
        return self._project(out, query)

    def _key_sides(self, sides: tuple[int, int], kernel: int) -> tuple[int, int]:
        """The grid of keys of a map of the given sides."""
        padding = 0 if kernel == self.stride else kernel // 2
        if self.offset_network is None:
            return -(-sides[0] // self.stride), -(-sides[1] // self.stride)
        h, w = (max(1, (n + 2 * padding - kernel) // self.stride + 1) for n in sides)
        return h, w

    def _points(self, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Steps 1 to 3: references (hk wk 2), offsets and positions (b g hk wk 2), as (y, x)."""
        b, _, h, w = query.shape
        if self.offset_network is None:
            hk, wk = ((n + self.stride - 1) // self.stride for n in (h, w))
            references = self._references(hk, wk, at_least_float32(query[:0]))
            positions = references.expand(b, self.num_groups, -1, -1, -1)
            return references, torch.zeros_like(positions), positions
        raw = self.offset_network(query)
        hk, wk = raw.shape[2:4]
        references = self._references(hk, wk, raw)
        if self.offset_range_factor >= 0:
            y, x = raw.tanh().unbind(-1)
            reach = (self.offset_range_factor / self._over(n) for n in (hk, wk))
            offsets = torch.stack([part * r for part, r in zip((y, x), reach, strict=True)], -1)
            return references, offsets, references + offsets
        moved = references + raw
        positions = moved.clamp(-1, 1) if self.corner_aligned else moved.tanh()
        return references, positions - references, positions

    def _over(self, cells: int) -> int:
        """What divides a grid's coordinates."""
        return at_least(cells - 1, 1) if self.corner_aligned else cells

    def _references(self, hk: int, wk: int, like: Tensor) -> Tensor:
        y, x = (cell_centres(n, self._over(n), like.dtype, like.device) for n in (hk, wk))
        return torch.stack([y[:, None].expand(hk, wk), x.expand(hk, wk)], -1)

    def _query_grid(self, query: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of the query rows (h) and columns (w)."""
        dtype, device = positions.dtype, positions.device
        h, w = query.shape[2:]
        if self.corner_aligned:
            return corner_grid(h, dtype, device), corner_grid(w, dtype, device)
        return cell_centres(h, h, dtype, device), cell_centres(w, w, dtype, device)

    def _sample(self, x: Tensor, positions: Tensor) -> Tensor:
        """Step 4: x̃ (b c hk wk), the map at the positions, or pooled where there are no offsets."""
        if self.offset_network is not None:
            return deformable.deformable_samples(x, positions)
        with full_precision(x):
            pooled = block_average(at_least_float32(x).permute(0, 2, 3, 1), self.stride)
        return pooled.permute(0, 3, 1, 2).to(x.dtype)

    def _heads(self, query: Tensor, samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (b heads h w d), k and v (b heads n d)."""
        samples = samples.contiguous(memory_format=torch.channels_last)
        q, k, v = (
            y.permute(0, 2, 3, 1).unflatten(3, (self.num_heads, -1)).permute(0, 3, 1, 2, 4)
            for y in (query, self.key(samples), self.value(samples))
        )
        shape = (*k.shape[:2], k.shape[2] * k.shape[3], k.shape[4])
        return q, reshape(k, *shape), reshape(v, *shape)

    def _project(self, out: Tensor, query: Tensor) -> Tensor:
        """Step 6: W_o, from (b heads h w d)."""
        b, heads, h, w, d = out.shape
        y = reshape(out.permute(0, 2, 3, 1, 4), b, h, w, heads * d).permute(0, 3, 1, 2)
        if self.position_conv is not None:
            y = y + self.position_conv(query)
        return self.proj(y.contiguous(memory_format=torch.channels_last))

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """What forward computes on the way. Points are (y, x), normalised to [−1, 1].

        Returns:
            references (hk wk 2); offsets and positions (b g hk wk 2), positions past ±1 being off
            the map; samples (b c hk wk); keys and values (b heads n d), made of the samples;
            attention (b heads h·w n), rows summing to 1.
        """
        query = self.query(x)
        references, offsets, positions = self._points(query)
        samples = self._sample(x, positions)
        q, k, v = self._heads(query, samples)
        bias = self.position_bias(positions, *self._query_grid(query, positions))
        attention = deformable.attention_weights(q, k, bias)
        points = {"references": references, "offsets": offsets, "positions": positions}
        keys = {"samples": samples, "keys": k, "values": v}
        return {**points, **keys, "attention": attention}


def _check_deformable(heads: int, groups: int, stride: int, kernel: int) -> None:
    if groups < 1 or heads % groups:
        raise OptionError(f"num_groups divides the number of heads, got {heads} and {groups}.")
    if stride < 1 or kernel < stride:
        raise OptionError(
            f"stride is at least 1 and offset_kernel no smaller, got {stride} and {kernel}."
        )


def _mixer(kind: str, config: DATConfig, stage: int, dd: dict) -> nn.Module:
    """The attention that a letter stands for."""
    dim, heads = config.dims[stage], config.num_heads[stage]
    if kind in "LS":
        return local.WindowAttention(dim, heads, config.window_size, shift=kind == "S", **dd)
    if kind == "N":
        return local.NeighborhoodAttention(dim, heads, config.neighborhood_size, **dd)
    return DeformableAttention(
        dim,
        heads,
        config.num_groups[stage],
        stride=config.offset_strides[stage],
        offset_kernel=config.offset_kernels[stage],
        offset_range_factor=config.range_factor(stage),
        table_size=config.trained_side(stage),
        position_bias=config.position_bias,
        use_offsets=config.use_offsets,
        corner_aligned=config.corner_aligned,
        **dd,
    )


class DAT(Backbone):
    """A DAT or, by its config, a DAT++."""

    config: DATConfig

    def __init__(
        self,
        config: DATConfig = DATConfig(),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        config.refuse_output_stride("DAT")
        dd = {"device": device, "dtype": dtype}
        mlp = local.ConvMlp if config.use_conv_mlp else Mlp
        kinds = config.kinds()
        stages = []
        for stage, rates in enumerate(config.drop_path_rates(config.depths)):
            dim = config.dims[stage]
            blocks = [
                local.DATBlock(
                    dim,
                    _mixer(kind, config, stage, dd),
                    mlp(dim, config.mlp_ratio, **dd),
                    rate,
                    local_perception=config.use_local_perception,
                    **dd,
                )
                for kind, rate in zip(kinds[stage], rates, strict=True)
            ]
            stages.append(Stage(blocks, _downsample(config, stage, dd)))
        super().__init__(
            config,
            stem=_stem(config, dd),
            stages=stages,
            channels=list(config.dims),
            reductions=config.strides(len(config.dims))[0],
            norm=LayerNorm2d(config.dims[-1], eps=1e-5, **dd),
            **dd,
        )

    def init_weights_of(self, module: nn.Module) -> None:
        """PyTorch's own initialisation, and tables with a standard deviation of 0.01."""

    def no_weight_decay(self) -> set[str]:
        return {"*position_bias.table", "*relative_position_bias*"}


def _stem(config: DATConfig, dd: dict) -> nn.Sequential:
    """To a map of a quarter of the image's side; in DAT++ by two overlapping convolutions."""
    dim, stride = config.dims[0], config.first_stride()
    if not config.use_conv_embed:
        # At half the stride a patch overlaps its neighbours, by a pixel on either side.
        patch = {"kernel_size": 4, "stride": stride, "padding": int(stride == 2)}
        return conv_norm_stem(ConvNorm(config.in_chans, dim, **patch, on_image=True, **dd))
    conv = {"kernel_size": 3, "padding": 1}
    first = ConvNorm(config.in_chans, dim // 2, stride=2, on_image=True, **conv, **dd)
    second = ConvNorm(dim // 2, dim, stride=stride // 2, **conv, **dd)
    names = ("proj", "norm", "act", "proj2", "norm2")
    parts = (first.proj, first.norm, nn.GELU(), second.proj, second.norm)
    return nn.Sequential(OrderedDict(zip(names, parts, strict=True)))


def _downsample(config: DATConfig, stage: int, dd: dict) -> ConvNorm | None:
    """Halves the map at the start of every stage but the first."""
    if stage == 0:
        return None
    overlap = config.use_conv_embed
    return ConvNorm(
        config.dims[stage - 1],
        config.dims[stage],
        kernel_size=3 if overlap else 2,
        stride=2,
        padding=1 if overlap else 0,
        bias=False,
        **dd,
    )


_MEDIUM = {"dims": (96, 192, 384, 768), "num_heads": (3, 6, 12, 24)}
_WIDE = {"dims": (128, 256, 512, 1024), "num_heads": (4, 8, 16, 32)}
_TINY = DATConfig(drop_path_rate=0.2)
_SMALL = replace(_TINY, depths=(2, 2, 18, 2), drop_path_rate=0.3)
_BASE = replace(_SMALL, **_WIDE, num_groups=(1, 1, 4, 8), drop_path_rate=0.5)
_P_TINY = DATConfig(
    dims=(64, 128, 256, 512),
    depths=(2, 4, 18, 2),
    stage_spec=("ND", "ND", "ND", "DD"),
    num_heads=(2, 4, 8, 16),
    num_groups=(1, 2, 4, 8),
    offset_strides=(8, 4, 2, 1),
    offset_range_factor=-1,
    corner_aligned=True,
    drop_path_rate=0.2,
)
_PP_TINY = replace(_P_TINY, use_conv_embed=True, use_conv_mlp=True, use_local_perception=True)

# The papers' variants: pp is DAT++, p is DAT++ without its convolutional parts.
VARIANTS = {
    "dat_tiny": _TINY,
    "dat_small": _SMALL,
    "dat_base": _BASE,
    "dat_base_384": replace(_BASE, img_size=384, window_size=12),
    "dat_pp_tiny": _PP_TINY,
    "dat_pp_small": replace(_PP_TINY, **_MEDIUM, num_groups=(1, 2, 3, 6), drop_path_rate=0.4),
    "dat_pp_base": replace(_PP_TINY, **_WIDE, num_groups=(2, 4, 8, 16), drop_path_rate=0.7),
    "dat_p_tiny": _P_TINY,
}


def renames(config: DATConfig) -> list[Rename]:
    """Official prefixes and ours."""
    return official.renames(config.kinds(), config.use_conv_mlp)


def computed_buffers(config: DATConfig) -> dict[str, Tensor]:
    """The index and mask buffers of the official window attentions at the trained size."""
    sides = [config.trained_side(stage) for stage in range(len(config.depths))]
    return official.computed_buffers(config.kinds(), sides, config.window_size)


register(
    Family(DAT, VARIANTS, renames, official.infer_options, computed_buffers, official.is_computed)
)
