"""How pictures are resized and changed at random, together with their boxes, masks and labels."""

import math
from dataclasses import dataclass

from foveal.errors import OptionError

_LEAST_SIDE = 32


@dataclass(frozen=True, kw_only=True)
class JointAugmentation:
    """What training pictures of any task go through.

    The shorter side becomes one of `scales`, as far as the longer one stays within `max_side`;
    where there is a `jitter`, both are multiplied by a factor drawn from it; then comes the crop.

    Attributes:
        scales: shorter sides in pixels, from 32 up, of which one is drawn for each picture.
        max_side: pixels of the longer side that are not exceeded, before jitter; None for any.
        jitter: least and greatest factor, drawn uniformly, or None.
        crop: height and width in pixels of a random crop, or None.
        hflip: probability of a mirror image.
        photometric: whether brightness, contrast, saturation and hue are changed at random.
    """

    scales: tuple[int, ...] = tuple(range(480, 801, 32))
    max_side: int | None = 1333
    jitter: tuple[float, float] | None = None
    crop: tuple[int, int] | None = None
    hflip: float = 0.5
    photometric: bool = False

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < _LEAST_SIDE:
            raise OptionError(
                f"scales are one or more shorter sides from {_LEAST_SIDE} pixels up, got "
                f"{list(self.scales)}."
            )
        _require_longer("max_side", self.max_side, max(self.scales))
        if self.jitter is not None and not 0 < self.jitter[0] <= self.jitter[1] < math.inf:
            raise OptionError(
                "jitter is a least and a greatest factor above 0, such as [0.1, 2.0], or null, got "
                f"{list(self.jitter)}."
            )
        if self.crop is not None and min(self.crop) < _LEAST_SIDE:
            raise OptionError(
                f"crop is a height and a width from {_LEAST_SIDE} pixels up, or null, got "
                f"{list(self.crop)}."
            )
        if not 0 <= self.hflip <= 1:
            raise OptionError(f"hflip lies between 0 and 1, got {self.hflip}.")


@dataclass(frozen=True, kw_only=True)
class DetectionAugmentation(JointAugmentation):
    """What pictures with objects go through.

    As it stands: the usual recipe, 480 to 800. Large-scale jitter: `scales` and `max_side` 1024,
    `jitter` 0.1 to 2, `crop` 1024 × 1024.

    Attributes:
        eval_scale: shorter side in pixels in judging; None for the picture's own.
        eval_max_side: as `max_side`, in judging.
    """

    eval_scale: int | None = 800
    eval_max_side: int | None = 1333

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_scale is not None and self.eval_scale < _LEAST_SIDE:
            raise OptionError(
                f"eval_scale is a shorter side from {_LEAST_SIDE} pixels up, or null for the "
                f"picture's own, got {self.eval_scale}."
            )
        _require_longer("eval_max_side", self.eval_max_side, self.eval_scale or _LEAST_SIDE)


@dataclass(frozen=True, kw_only=True)
class SegmentationAugmentation(JointAugmentation):
    """What scenes go through; they are judged at their own size.

    As it stands: ADE20K's, but for `photometric`.

    Attributes:
        crop: height and width in pixels, of all training pictures.
        cat_max_ratio: share of a crop's labelled pixels that one class stays below, in (0, 1], if
            one of ten random crops lets it; 1 to take any crop.
    """

    scales: tuple[int, ...] = (512,)
    max_side: int | None = 2048
    jitter: tuple[float, float] | None = (0.5, 2.0)
    crop: tuple[int, int] = (512, 512)
    cat_max_ratio: float = 0.75

    def __post_init__(self) -> None:
        # Files of settings can say so all the same.
        if self.crop is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise OptionError(
                "Segmentation is trained on crops of one size; give crop a height and a width, "
                "such as [512, 512]."
            )
        super().__post_init__()
        if not 0 < self.cat_max_ratio <= 1:
            raise OptionError(
                f"cat_max_ratio lies above 0 and is at most 1, got {self.cat_max_ratio}."
            )


def _require_longer(name: str, longest: int | None, shortest: int) -> None:
    if longest is not None and longest < shortest:
        raise OptionError(
            f"{name} limits the longer side and is no less than the greatest shorter one, "
            f"{shortest}, got {longest}."
        )
