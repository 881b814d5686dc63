"""What is in an image and what was found there, in pixels of the original picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from foveal.errors import MissingExtraError
from foveal.tasks.detection.contract import Found, Target

# COCO's compressed run lengths: "size" (height, width) and "counts" (bytes).
Rle = Mapping[str, Any]

# Masks resized at a time: each is a whole picture of floats until it is run lengths.
_MASKS_AT_ONCE = 16

# Target boxes went to the network's size and back in float32. Rounded to thousandths of a pixel
# they are the annotated numbers again, which are whole or have two decimals.
DECIMALS = 3


@dataclass(frozen=True, eq=False)
class Objects:
    """Boxes of one image.

    Attributes:
        xywh: left, top, width and height in pixels of the original picture, COCO's form.
        labels: classes from 0 up.
        masks: of the original picture's size; None where there are none.
    """

    xywh: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    masks: tuple[Rle, ...] | None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def boxes(self) -> Float[np.ndarray, "n 4"]:
        """x1, y1, x2, y2."""
        return np.concatenate([self.xywh[:, :2], self.xywh[:, :2] + self.xywh[:, 2:]], axis=1)


@dataclass(frozen=True, eq=False)
class TrueObjects(Objects):
    """What is in an image.

    Attributes:
        crowd: objects that stand for many.
        areas: in pixels, by which objects are small, medium or large.
    """

    crowd: Bool[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class FoundObjects(Objects):
    """What a detector found in an image.

    Attributes:
        scores: confidence in [0, 1].
    """

    scores: Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One judged image.

    Attributes:
        image_id: as in the annotations.
        name: what a person calls it.
        size: height and width of the original picture.
        true: what is there.
        found: what was found.
    """

    image_id: int
    name: str
    size: tuple[int, int]
    true: TrueObjects
    found: FoundObjects


def found_objects(
    found: Found, seen: tuple[int, int], size: tuple[int, int], *, masks: bool = True
) -> FoundObjects:
    """A detector's answer, brought to the original picture.

    Args:
        found: on any device.
        seen: height and width of the image as the network got it.
        size: those of the original picture.
        masks: keep masks where there are any.
    """
    drawn = found.get("masks") if masks else None
    return FoundObjects(
        _xywh(found["boxes"], seen, size),
        found["labels"].cpu().numpy().astype(np.int64),
        None if drawn is None else encode_masks(drawn, size),
        found["scores"].float().cpu().numpy().astype(np.float64),
    )


def true_objects(
    target: Target, seen: tuple[int, int], size: tuple[int, int], *, masks: bool = True
) -> TrueObjects:
    """A sample's target, brought back to the original picture; arguments as `found_objects`."""
    drawn = target.get("masks") if masks else None
    xywh = _xywh(target["boxes"], seen, size).round(DECIMALS)
    encoded = None if drawn is None else encode_masks(drawn, size)
    labels = target["labels"].cpu().numpy().astype(np.int64)
    crowd = target.get("crowd")
    return TrueObjects(
        xywh,
        labels,
        encoded,
        np.zeros(len(labels), bool) if crowd is None else crowd.cpu().numpy().astype(bool),
        xywh[:, 2] * xywh[:, 3] if encoded is None else mask_areas(encoded),
    )


def _xywh(
    boxes: Float[Tensor, "n 4"], seen: tuple[int, int], size: tuple[int, int]
) -> Float[np.ndarray, "n 4"]:
    corners = boxes.float().cpu().numpy().astype(np.float64).reshape(-1, 4)
    scale = np.array([size[1] / seen[1], size[0] / seen[0]])
    left_top = corners[:, :2] * scale
    return np.concatenate([left_top, corners[:, 2:] * scale - left_top], axis=1)


def encode_masks(masks: Bool[Tensor, "n h w"], size: tuple[int, int]) -> tuple[Rle, ...]:
    """Masks of any size as run lengths of the original picture's, a few at a time.

    Args:
        masks: on any device.
        size: height and width of the original picture; edges between pixels are drawn bilinearly.
    """
    encode = coco_masks().encode
    found: list[Rle] = []
    for part in masks.split(_MASKS_AT_ONCE):
        if tuple(part.shape[-2:]) != tuple(size):
            soft = F.interpolate(part[:, None].float(), tuple(size), mode="bilinear")
            part = soft[:, 0] >= 0.5  # noqa: PLW2901
        pixels = part.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        found += encode(np.asfortranarray(pixels))
    return tuple(found)


def decode_masks(masks: tuple[Rle, ...], size: tuple[int, int]) -> Bool[np.ndarray, "n h w"]:
    """Run lengths as pixels again."""
    if not masks:
        return np.zeros((0, *size), bool)
    return coco_masks().decode(list(masks)).transpose(2, 0, 1).astype(bool)


def mask_areas(masks: tuple[Rle, ...]) -> Float[np.ndarray, " n"]:
    """Pixels of each mask."""
    areas = coco_masks().area(list(masks)) if masks else []
    return np.asarray(areas, dtype=np.float64)


def coco_masks() -> Any:
    """faster-coco-eval's run lengths and overlaps.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import mask
    except ImportError as error:
        raise MissingExtraError("faster-coco-eval", "dense") from error
    return mask
