"""EfficientMod's component table: efficient modulation without a part, and MBConv in its place.

After the ablation of Ma et al. (ICLR 2024, arXiv 2403.19963). Written from the equations in
`foveal/models/efficientmod.py`.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import OptionError
from foveal.models.ablations.replace import replace_units
from foveal.models.efficientmod import EfficientMod, EfficientModConfig, EfficientModulation
from foveal.models.family import Family

UNITS = ("modulation", "mbconv")


@dataclass(frozen=True, kw_only=True)
class EfficientModAblationConfig(EfficientModConfig):
    """An EfficientMod whose unit lacks what is set to False here, or is another one.

    Attributes:
        use_f, use_g: whether the context has a linear layer before and after the convolution.
        use_depthwise: whether it has the convolution.
        interaction: of hidden features and context, "product" or "sum".
        unit: "modulation", or "mbconv" with as many channels; the options above then do nothing.
    """

    use_f: bool = True
    use_g: bool = True
    use_depthwise: bool = True
    interaction: str = "product"
    unit: str = "modulation"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.unit not in UNITS:
            raise OptionError(f"unit is one of {', '.join(UNITS)}, got {self.unit!r}.")


class AblatedEfficientModulation(EfficientModulation):
    """Efficient modulation without some of its parts, (B, C, H, W) → (B, C, H, W), any C, H, W.

        whole       y = fc2( GELU(fc1 x) ⊙ repeat_r( g(GELU(DW(f x))) ) )
        without f   the context is g(GELU(DW x))
        without g   the context is GELU(DW(f x))
        without dw  the context is g(GELU(f x))
        sum         y = fc2( GELU(fc1 x) + repeat_r( g(GELU(DW(f x))) ) )

    Args:
        dim, ratio, context_size, dilation: as in `EfficientModulation`.
        use_f, use_g, use_depthwise, interaction: as in `EfficientModAblationConfig`.
    """

    def __init__(
        self,
        dim: int,
        ratio: int = 6,
        context_size: int = 7,
        *,
        use_f: bool = True,
        use_g: bool = True,
        use_depthwise: bool = True,
        interaction: str = "product",
        dilation: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        if interaction not in ("product", "sum"):
            raise OptionError(f"interaction is 'product' or 'sum', got {interaction!r}.")
        super().__init__(dim, ratio, context_size, dilation=dilation, device=device, dtype=dtype)
        self.adds = interaction == "sum"
        self.convolves = use_depthwise
        for name, used in (("f", use_f), ("g", use_g), ("depthwise", use_depthwise)):
            if not used:
                setattr(self, name, nn.Identity())

    def _gathered(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """GELU(DW x), or GELU(x)."""
        return super()._gathered(x) if self.convolves else F.gelu(x)

    def _modulate(
        self, x: Float[Tensor, "b h w c"], context: Float[Tensor, "b h w c"]
    ) -> Float[Tensor, "b h w c"]:
        """fc2 of the product, or of the sum."""
        if not self.adds:
            return super()._modulate(x, context)
        groups = self._activated(self.fc1(x)).unflatten(-1, (self.ratio, context.shape[-1]))
        return self.fc2((groups + context.unsqueeze(-2)).flatten(-2))


class MBConv(nn.Module):
    """`fc2(GELU(DW(GELU(fc1 x))))`, (B, C, H, W) → (B, C, H, W), any C, H and W.

    The inverted bottleneck of MobileNetV2 (Sandler et al., CVPR 2018) in EfficientMod's block: with
    its norm, activation and kernel. The depthwise convolution sees all r·C hidden channels.

    Args:
        dim: channels C.
        ratio: r, hidden channels over C.
        kernel_size: of the depthwise convolution, odd.
        dilation: of that convolution.
    """

    def __init__(
        self,
        dim: int,
        ratio: int = 6,
        kernel_size: int = 7,
        *,
        dilation: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        hidden = ratio * dim
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.depthwise = nn.Conv2d(
            hidden,
            hidden,
            kernel_size,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=hidden,
            **dd,
        )
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        hidden = F.gelu(self.fc1(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        hidden = F.gelu(self.depthwise(hidden)).permute(0, 2, 3, 1)
        return self.fc2(hidden).permute(0, 3, 1, 2)


class AblatedEfficientMod(EfficientMod):
    """An EfficientMod with another unit in its modulation blocks; attention blocks stay."""

    def __init__(
        self,
        config: EfficientModAblationConfig = EfficientModAblationConfig(),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(config, device=device, dtype=dtype)
        dilations = config.strides(len(config.depths))[1]

        def ablated(stage: int, old: nn.Module) -> nn.Module | None:
            if not isinstance(old, EfficientModulation):
                return None
            size = (config.embed_dim[stage], old.ratio, config.context_size)
            options = {"dilation": dilations[stage], "device": device, "dtype": dtype}
            if config.unit == "mbconv":
                return MBConv(*size, **options)
            return AblatedEfficientModulation(
                *size,
                use_f=config.use_f,
                use_g=config.use_g,
                use_depthwise=config.use_depthwise,
                interaction=config.interaction,
                **options,
            )

        replace_units(self, "mixer", ablated)


BODY = Family(
    AblatedEfficientMod, {"efficientmod_ablated": EfficientModAblationConfig()}, lambda _: []
)
