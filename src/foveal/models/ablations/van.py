"""VAN-B0: visual attention network (Guo et al., 2022, arXiv 2202.09741), for comparison.

The network beside which EfficientMod's paper sets its own. Written from the paper.

A depthwise 5×5, a depthwise 7×7 of dilation 3 and a 1×1 convolution stand for one of 21×21 (they
see 23×23); what it gathers multiplies what it gathered it from.

    LKA(u) = W DW₇,₃(DW₅ u) ⊙ u,   attention(x) = x + W₂ LKA(GELU(W₁ x))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import sqrt

import torch
from jaxtyping import Float
from timm.layers import DropPath, LayerNorm2d, LayerScale2d
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.layers.image_input import ImageConv2d
from foveal.models.backbone import Backbone, BackboneConfig, Stage
from foveal.models.family import Family


@dataclass(frozen=True, kw_only=True)
class VANConfig(BackboneConfig):
    """A VAN in the paper's words.

    Attributes:
        embed_dims, depths: channels and blocks per stage.
        mlp_ratios: hidden channels of each stage's feed-forward network over channels.
    """

    embed_dims: Sequence[int] = (32, 64, 160, 256)
    depths: Sequence[int] = (3, 3, 5, 2)
    mlp_ratios: Sequence[float] = (8, 8, 4, 4)
    drop_path_rate: float = 0.1


class LargeKernelAttention(nn.Module):
    """`x + W₂ LKA(GELU(W₁ x))`, (B, C, H, W) → (B, C, H, W), any C, H and W.

    Args:
        dim: channels C.
    """

    def __init__(
        self,
        dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        conv = partial(nn.Conv2d, dim, dim, device=device, dtype=dtype)
        self.fc1 = conv(1)
        self.near = conv(5, padding=2, groups=dim)
        self.far = conv(7, padding=9, dilation=3, groups=dim)
        self.pointwise = conv(1)
        self.fc2 = conv(1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        u = F.gelu(self.fc1(x))
        return x + self.fc2(self.pointwise(self.far(self.near(u))) * u)


class ConvFeedForward(nn.Module):
    """`fc2(GELU(DW3(fc1 x)))`, (B, C, H, W) → (B, C, H, W), any C, H and W.

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
        self.fc1 = nn.Conv2d(dim, hidden, 1, **dd)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **dd)
        self.fc2 = nn.Conv2d(hidden, dim, 1, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.fc2(F.gelu(self.dwconv(self.fc1(x))))


class VANBlock(nn.Module):
    """`x + γ₁·attention(BN x)`, then `x + γ₂·feed_forward(BN x)`.

    Args:
        dim: channels.
        mlp_ratio: of the feed-forward network.
        drop_path: stochastic depth.
    """

    def __init__(
        self,
        dim: int,
        mlp_ratio: float,
        drop_path: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.mixer = LargeKernelAttention(dim, **dd)
        self.layer_scale1 = LayerScale2d(dim, 1e-2, **dd)
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.channel_mixer = ConvFeedForward(dim, mlp_ratio, **dd)
        self.layer_scale2 = LayerScale2d(dim, 1e-2, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = x + self.drop_path(self.layer_scale1(self.mixer(self.norm1(x))))
        return x + self.drop_path(self.layer_scale2(self.channel_mixer(self.norm2(x))))


class VAN(Backbone):
    """A VAN; each of its maps is normed at the end of its stage."""

    config: VANConfig

    def __init__(
        self,
        config: VANConfig = VANConfig(),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        dd = {"device": device, "dtype": dtype}
        config.refuse_output_stride("VAN")
        dims, stages = list(config.embed_dims), []
        for stage, rates in enumerate(config.drop_path_rates(config.depths)):
            blocks = [VANBlock(dims[stage], config.mlp_ratios[stage], r, **dd) for r in rates]
            down = nn.Conv2d(dims[stage - 1], dims[stage], 3, stride=2, padding=1, **dd)
            down = nn.Sequential(down, nn.BatchNorm2d(dims[stage], **dd)) if stage else None
            stages.append(Stage(blocks, down, LayerNorm2d(dims[stage], eps=1e-6, **dd)))
        first = config.first_stride()
        stem = nn.Sequential()
        stem.proj = ImageConv2d(config.in_chans, dims[0], 7, stride=first, padding=3, **dd)
        stem.norm = nn.BatchNorm2d(dims[0], **dd)
        super().__init__(
            config,
            stem=stem,
            stages=stages,
            channels=dims,
            reductions=config.strides(len(dims))[0],
            norm=nn.Identity(),
            **dd,
        )

    def init_weights_of(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
            nn.init.normal_(module.weight, std=sqrt(2 * module.groups / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        super().init_weights_of(module)


BODY = Family(VAN, {"van_b0": VANConfig()}, lambda _: [])
