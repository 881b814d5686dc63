"""Feature pyramids (Lin et al., CVPR 2017): every map with as many channels, coarser ones added."""

from collections import OrderedDict
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from foveal.errors import OptionError
from foveal.models.pyramid import Pyramid

Coarser = Literal["none", "pool", "p6p7"]


class FeaturePyramid(nn.Module):
    """A backbone with torchvision's pyramid network on top, as its detectors take it.

    Args:
        pyramid: the backbone.
        channels: of every level.
        coarser: levels beyond the backbone's last map: "none"; "pool", one more that skips every
            other cell, for proposals of the largest objects (Mask R-CNN); "p6p7", two more by
            convolutions of stride 2 (RetinaNet and FCOS).

    Attributes:
        out_channels: of every level.
        strides: pixels per cell of each level, finest first.
        backbone_levels: names of the levels that have a map of the backbone.

    Raises:
        OptionError: all maps have one scale, as those of plain transformers have.
    """

    def __init__(self, pyramid: Pyramid, channels: int = 256, coarser: Coarser = "none"):
        super().__init__()
        if len(pyramid.reductions) > 1 and len(set(pyramid.reductions)) == 1:
            raise OptionError(
                f"A feature pyramid needs maps of several scales, all of this backbone's have "
                f"{pyramid.reductions[0]} pixels a cell; choose another backbone."
            )
        extra = {
            "none": lambda: None,
            "pool": LastLevelMaxPool,
            "p6p7": lambda: LastLevelP6P7(channels, channels),
        }[coarser]()
        self.pyramid = pyramid
        self.fpn = FeaturePyramidNetwork(pyramid.channels, channels, extra)
        self.out_channels = channels
        added = {"none": 0, "pool": 1, "p6p7": 2}[coarser]
        last = pyramid.reductions[-1]
        self.strides = [*pyramid.reductions, *(last * 2 ** (i + 1) for i in range(added))]
        self.backbone_levels = [str(index) for index in range(len(pyramid.channels))]

    def forward(self, x: Float[Tensor, "b c h w"]) -> OrderedDict[str, Tensor]:
        """Images to levels (b, out_channels, h2, w2) by name, finest first, in float32 or better.

        Anchors and boxes take the maps' type, and bfloat16 has no number between 512 and 516.
        """
        maps = OrderedDict(zip(self.backbone_levels, self.pyramid(x), strict=True))
        levels = self.fpn(maps)
        return OrderedDict((name, _at_least_float32(level)) for name, level in levels.items())


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.element_size() < 4 else x
