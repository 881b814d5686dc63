"""Transforms of a picture together with its boxes, masks and labels.

A transform takes an upright RGB picture and a dictionary, and returns the normalised picture as a
tensor and the dictionary with its values moved along. It may hold

- "boxes", `tv_tensors.BoundingBoxes` (n, 4) as x1, y1, x2, y2, with "labels" (n,) and, if the data
  have them, "masks", `tv_tensors.Mask` (n, h, w), and "crowd" (n,): one row an object;
- "semantic", `tv_tensors.Mask` (h, w): the class of every pixel.

What comes out are plain tensors: boxes float32, labels and semantic int64, masks and crowd bool.
Anything else is handed through. Randomness comes from PyTorch's global generator alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import (
    InterpolationMode,
    RandomHorizontalFlip,
    RandomPhotometricDistort,
)
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Mask

from foveal.data.joint_augmentation import (
    DetectionAugmentation,
    JointAugmentation,
    SegmentationAugmentation,
)

JointTransform = Callable[[Image.Image, dict[str, Any]], tuple[Tensor, dict[str, Any]]]

_PER_OBJECT = ("boxes", "labels", "masks", "crowd")
_CROP_TRIES = 10


def detection_transforms(
    mean: Sequence[float], std: Sequence[float], config: DetectionAugmentation, train: bool
) -> JointTransform:
    """Pictures of any size with their objects; batches are padded by who collates them.

    Args:
        mean: per channel, of intensities in [0, 1].
        std: per channel.
        config: sizes and random changes.
        train: whether to change at random. Then objects of which less than a pixel's width or
            height, or nothing of the mask, is left are taken out, box, label, mask and crowd flag:
            a picture may end with none. Where a crop cuts an object that has a mask, the box is
            drawn anew around what is left of it.
    """
    normalise = _Normalise(tuple(mean), tuple(std))
    if not train:
        scales = () if config.eval_scale is None else (config.eval_scale,)
        return _Steps((_Resize(scales, config.eval_max_side, None), normalise))
    crop = None if config.crop is None else _ObjectCrop(config.crop)
    return _Steps((*_random_steps(config, crop), normalise, _sound))


def segmentation_transforms(
    mean: Sequence[float],
    std: Sequence[float],
    config: SegmentationAugmentation,
    train: bool,
    ignore_index: int,
) -> JointTransform:
    """Pictures with the class of every pixel; in training all of the crop's size.

    Args:
        mean: per channel, of intensities in [0, 1].
        std: per channel.
        config: sizes and random changes.
        train: whether to change at random. Otherwise sizes are left as they are.
        ignore_index: label of pixels that do not count, such as those that a crop is filled up
            with below and to the right; there the picture is 0, its mean.
    """
    normalise = _Normalise(tuple(mean), tuple(std))
    if not train:
        return _Steps((normalise,))
    crop = _LabelCrop(config.crop, config.cat_max_ratio, ignore_index)
    fill = _Fill(config.crop, ignore_index)
    return _Steps((*_random_steps(config, crop), normalise, fill))


def scaled_size(
    size: tuple[int, int], shorter: int, longest: int | None = None, factor: float = 1.0
) -> tuple[int, int]:
    """Height and width of a picture of `size` (height, width) resized in proportion.

    Args:
        size: as it is.
        shorter: pixels of the shorter side, if the longer one then stays within `longest`.
        longest: pixels of the longer side that are not exceeded, or None.
        factor: by which the result is multiplied.
    """
    scale = shorter / min(size)
    if longest is not None:
        scale = min(scale, longest / max(size))
    height, width = (max(1, round(side * scale * factor)) for side in size)
    return height, width


def _random_steps(config: JointAugmentation, crop: Any) -> tuple[Any, ...]:
    resize = _Resize(config.scales, config.max_side, config.jitter)
    flip = RandomHorizontalFlip(config.hflip) if config.hflip else None
    distort = _Photometric() if config.photometric else None
    return tuple(step for step in (resize, crop, flip, distort) if step is not None)


@dataclass(frozen=True)
class _Steps:
    """One step after another; each takes and returns picture and target."""

    steps: tuple[Any, ...]

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        moved: Any = image
        for step in self.steps:
            moved, target = step(moved, target)
        return moved, target


@dataclass(frozen=True)
class _Resize:
    """To a shorter side drawn from `scales` (none: leave it), times a drawn factor."""

    scales: tuple[int, ...]
    longest: int | None
    jitter: tuple[float, float] | None

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if not self.scales:
            return image, target
        shorter = self.scales[_draw(len(self.scales))]
        factor = 1.0
        if self.jitter is not None:
            low, high = self.jitter
            factor = low + (high - low) * torch.rand(()).item()
        size = scaled_size((image.height, image.width), shorter, self.longest, factor)
        moved = {name: _resized(value, size) for name, value in target.items()}
        return _resized(image, size), moved


class _Photometric(RandomPhotometricDistort):
    """Without the exchange of channels, which no recipe of the papers makes."""

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """As drawn, with the channels in their order."""
        return {**super().make_params(flat_inputs), "channel_permutation": None}


@dataclass(frozen=True)
class _ObjectCrop:
    """A random window of a picture with objects; smaller pictures stay as small as they are."""

    size: tuple[int, int]

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        top, left, height, width = window = _draw_window(image, self.size)
        cut = None
        if "masks" in target:
            boxes = target["boxes"].as_subclass(Tensor)
            start = boxes.new_tensor([left, top])
            end = boxes.new_tensor([left + width, top + height])
            cut = ((boxes[:, :2] < start) | (boxes[:, 2:] > end)).any(1)
        target = {name: _cropped(value, *window) for name, value in target.items()}
        if cut is not None:
            target["boxes"] = _tightened(target["boxes"], target["masks"], cut)
        return _cropped(image, *window), target


@dataclass(frozen=True)
class _LabelCrop:
    """A random window in which one class does not take up nearly everything, if ten draws do."""

    size: tuple[int, int]
    cat_max_ratio: float
    ignore_index: int

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        window = _draw_window(image, self.size)
        for _ in range(_CROP_TRIES - 1):
            if self.cat_max_ratio == 1 or self._is_varied(_cropped(target["semantic"], *window)):
                break
            window = _draw_window(image, self.size)
        moved = {name: _cropped(value, *window) for name, value in target.items()}
        return _cropped(image, *window), moved

    def _is_varied(self, labels: Int[Tensor, "h w"]) -> bool:
        counted = labels.as_subclass(Tensor)
        counts = torch.unique(counted[counted != self.ignore_index], return_counts=True)[1]
        return len(counts) > 1 and counts.max().item() < self.cat_max_ratio * counts.sum().item()


def _sound(image: Float[Tensor, "c h w"], target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Without the objects of which less than a pixel's width or height is left."""
    height, width = image.shape[1:]
    corners = target["boxes"].view(-1, 2, 2)
    corners = corners.clamp(corners.new_zeros(2), corners.new_tensor([width, height]))
    kept = (corners[:, 1] - corners[:, 0] >= 1).all(1)
    if "masks" in target:
        kept = kept & target["masks"].flatten(1).any(1)
    objects = {name: target[name] for name in _PER_OBJECT if name in target}
    objects["boxes"] = corners.flatten(1)
    return image, {**target, **{name: value[kept] for name, value in objects.items()}}


@dataclass(frozen=True)
class _Normalise:
    """Everything a plain tensor; the picture's channels with `mean` 0 and `std` 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        intensities = F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)
        normalised = F.normalize(intensities, list(self.mean), list(self.std))
        return normalised, {name: _plain(name, value) for name, value in target.items()}


_DTYPES = {
    "boxes": torch.float32,
    "labels": torch.int64,
    "masks": torch.bool,
    "crowd": torch.bool,
    "semantic": torch.int64,
}


def _plain(name: str, value: Any) -> Any:
    return value.as_subclass(Tensor).to(_DTYPES[name]) if name in _DTYPES else value


@dataclass(frozen=True)
class _Fill:
    """Up to `size` (height, width), with the mean and with labels that do not count."""

    size: tuple[int, int]
    ignore_index: int

    def __call__(
        self, image: Float[Tensor, "c h w"], target: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any]]:
        below, beside = (full - side for full, side in zip(self.size, image.shape[1:], strict=True))
        edges = (0, beside, 0, below)
        labels = pad(target["semantic"], edges, value=self.ignore_index)
        return pad(image, edges), {**target, "semantic": labels}


def _draw(count: int) -> int:
    """A whole number in [0, count)."""
    return int(torch.randint(count, ()))


def _draw_window(image: Image.Image, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random window, no larger than the picture."""
    height, width = min(size[0], image.height), min(size[1], image.width)
    return _draw(image.height - height + 1), _draw(image.width - width + 1), height, width


def _resized(value: Any, size: tuple[int, int]) -> Any:
    if isinstance(value, Mask):
        # Of the pixel nearest to where the picture is sampled; without -exact it lies half beside.
        return F.resize(value, list(size), InterpolationMode.NEAREST_EXACT)
    movable: Any = value
    if isinstance(value, BoundingBoxes | Image.Image):
        return F.resize(movable, list(size))
    return value


def _cropped(value: Any, top: int, left: int, height: int, width: int) -> Any:
    movable: Any = value
    if isinstance(value, BoundingBoxes | Mask | Image.Image):
        return F.crop(movable, top, left, height, width)
    return value


def _tightened(boxes: Any, masks: Any, cut: Bool[Tensor, " n"]) -> BoundingBoxes:
    """Boxes of which those that were `cut` lie close around what is left of their mask."""
    plain, drawn = boxes.as_subclass(Tensor).clone(), masks.as_subclass(Tensor).bool()
    anew = cut & drawn.flatten(1).any(1)
    if anew.any():
        edges = masks_to_boxes(drawn[anew]) + torch.tensor([0, 0, 1, 1])
        plain[anew] = edges.to(plain.dtype)
    return BoundingBoxes(  # pyright: ignore[reportCallIssue]
        plain, format=BoundingBoxFormat.XYXY, canvas_size=boxes.canvas_size
    )
