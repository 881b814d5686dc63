"""Convolution, then layer normalisation over channels: patch embedding and downsampling."""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.layers.image_input import ImageConv2d


class ConvNorm(nn.Module):
    """`norm(conv(x))`, (B, in, H, W) → (B, out, H/stride, W/stride).

    Args:
        in_dim, out_dim: channels in and out.
        kernel_size, stride, padding: of the convolution.
        eps: of the layer normalisation.
        bias: whether the convolution has one.
        dilation: spacing of the kernel's taps where the network keeps a higher resolution than it
            was trained at (`output_stride`). The stride is then 1 and the map keeps its size.
        on_image: this is the network's first convolution, which checks the image.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        kernel_size: int,
        stride: int,
        padding: int = 0,
        eps: float = 1e-5,
        bias: bool = True,
        dilation: int | None = None,
        on_image: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        # The kernel's reach left of a strided tap, and right of it, so that the dilated network
        # computes at every stride-th position what the strided network computes there.
        self.pad: list[int] | None = None
        if dilation is not None:
            left, right = dilation * padding, dilation * (kernel_size - 1 - padding)
            self.pad = [left, right, left, right]
            stride, padding = 1, 0
        self.proj = (ImageConv2d if on_image else nn.Conv2d)(
            in_dim,
            out_dim,
            kernel_size,
            stride,
            padding,
            dilation=dilation or 1,
            bias=bias,
            **dd,
        )
        self.norm = LayerNorm2d(out_dim, eps=eps, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        if self.pad is not None:
            x = F.pad(x, self.pad)
        return self.norm(self.proj(x))


def conv_norm_stem(patch_embed: ConvNorm) -> nn.Sequential:
    """The stem of a family that starts with one convolution: `stem.proj`, `stem.norm`."""
    return nn.Sequential(OrderedDict(proj=patch_embed.proj, norm=patch_embed.norm))


def downsampling(
    channels: Sequence[int],
    reductions: Sequence[int],
    dilations: Sequence[int],
    stage: int,
    *,
    kernel_size: int,
    padding: int,
    eps: float = 1e-5,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ConvNorm | None:
    """What halves the map at the start of a stage: nothing in the first, no stride where dilated.

    Args:
        channels, reductions, dilations: of every stage.
        stage: index of the stage that begins.
        kernel_size, padding: of the convolution at stride 2.
    """
    if stage == 0:
        return None
    dilated = reductions[stage] == reductions[stage - 1]
    return ConvNorm(
        channels[stage - 1],
        channels[stage],
        kernel_size=kernel_size,
        stride=2,
        padding=padding,
        eps=eps,
        dilation=dilations[stage - 1] if dilated else None,
        device=device,
        dtype=dtype,
    )
