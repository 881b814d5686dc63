"""Boxes as annotation files have them: which can be learnt from, and what is wrong with others."""

import math
from collections.abc import Sequence
from typing import Any

NOT_FINITE = "box that is not finite"
NEGATIVE = "negative box"
NO_AREA = "box without area"
OUTSIDE = "box outside the image"
PARTLY_OUTSIDE = "box partly outside the image"

# What is thinner than this in pixels is lost in rounding once images are resized.
_THINNEST = 0.01
# Files round coordinates, some to whole pixels: what leaves the image by less is no fault.
_ROUNDING = 0.5

Box = tuple[float, float, float, float]


def numbers(values: Any, count: int) -> list[float] | None:
    """`values` as floats if they are a list of `count` numbers, otherwise None; NaN is a number."""
    if not isinstance(values, list) or len(values) != count:
        return None
    return None if any(not is_number(value) for value in values) else [_as_float(v) for v in values]


def is_number(value: Any) -> bool:
    """Whether JSON had a number there."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_box(xywh: Sequence[float], size: tuple[int, int]) -> tuple[str | None, Box]:
    """A box inside its image.

    Args:
        xywh: left, top, width and height in pixels.
        size: height and width of the image.

    Returns:
        the kind of its fault or None, and the box as x1, y1, x2, y2, inside the image. A box with
        a fault other than `PARTLY_OUTSIDE` is of no use.
    """
    x, y, width, height = xywh
    box = (x, y, x + width, y + height)
    if not all(map(math.isfinite, box)):
        return NOT_FINITE, box
    if width < 0 or height < 0:
        return NEGATIVE, box
    if width < _THINNEST or height < _THINNEST:
        return NO_AREA, box
    bottom, right = float(size[0]), float(size[1])
    inside = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], right), min(box[3], bottom))
    if inside[2] - inside[0] < _THINNEST or inside[3] - inside[1] < _THINNEST:
        return OUTSIDE, box
    cut = max(abs(before - after) for before, after in zip(box, inside, strict=True))
    return (PARTLY_OUTSIDE if cut > _ROUNDING else None), inside


def _as_float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf
