"""COCO's segmentations, polygons or run lengths, checked and turned into masks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from foveal.data.box_checks import numbers
from foveal.errors import MissingExtraError

MALFORMED = "malformed mask"
OTHER_SIZE = "mask of another size than the image"
EMPTY = "mask without a pixel"


class MaskFault(ValueError):
    """A segmentation that cannot be used; its text is the kind of fault."""


def mask_api() -> Any:
    """faster_coco_eval's functions on run lengths.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise MissingExtraError("faster-coco-eval", "dense") from error
    return mask


def encode_segmentation(segmentation: Any, size: tuple[int, int]) -> bytes:
    """A mask of an annotation as COCO's compressed run lengths, drawn as COCO's tools draw it.

    Args:
        segmentation: polygons [[x, y, x, y, …], …], whose union it is, or {"size", "counts"}
            with compressed or plain run lengths.
        size: height and width of the image.

    Raises:
        MaskFault: it is neither, has another size than the image, or no pixel.
        MissingExtraError: faster-coco-eval is not installed.
    """
    if isinstance(segmentation, dict):
        runs = _runs(segmentation, size)
        if not runs[1::2].any():
            raise MaskFault(EMPTY)
        plain = {"size": list(size), "counts": runs.tolist()}
        return mask_api().frPyObjects(plain, *size)["counts"]
    api = mask_api()
    parts = api.frPyObjects(_polygons(segmentation, size), *size)
    mask = parts[0] if len(parts) == 1 else api.merge(parts)
    if not api.area(mask):
        raise MaskFault(EMPTY)
    return mask["counts"]


def decode_masks(counts: Sequence[bytes], size: tuple[int, int]) -> UInt8[np.ndarray, "n h w"]:
    """Masks of 0 and 1 from COCO's compressed run lengths.

    Args:
        counts: one a mask, as `encode_segmentation` gives them.
        size: height and width of the image.
    """
    if not counts:
        return np.zeros((0, *size), np.uint8)
    masks = mask_api().decode([{"size": list(size), "counts": runs} for runs in counts])
    return np.ascontiguousarray(masks.transpose(2, 0, 1))


def mask_areas(counts: Sequence[bytes], size: tuple[int, int]) -> list[int]:
    """Pixels of each mask."""
    if not counts:
        return []
    api = mask_api()
    return [int(area) for area in api.area([{"size": list(size), "counts": c} for c in counts])]


def has_mask(annotation: dict[str, Any]) -> bool:
    """Whether an annotation of COCO has a segmentation; files of boxes leave it out or empty."""
    return annotation.get("segmentation") not in (None, [], {}, [[]], "")


def _runs(segmentation: dict[str, Any], size: tuple[int, int]) -> Int[np.ndarray, " runs"]:
    """Checked run lengths, zeros and ones in turn, column by column.

    The library trusts them and would read or write beyond its memory.
    """
    given, counts = segmentation.get("size"), segmentation.get("counts")
    if numbers(given, 2) is None:
        raise MaskFault(MALFORMED)
    if given != list(size):
        raise MaskFault(OTHER_SIZE)
    runs = _decompressed(counts) if isinstance(counts, str) else _array(counts, "iu")
    pixels = size[0] * size[1]
    if (runs < 0).any() or (runs > pixels).any() or runs.sum() != pixels:
        raise MaskFault(MALFORMED)
    return runs.astype(np.int64)


def _decompressed(counts: str) -> Int[np.ndarray, " runs"]:
    """Run lengths from COCO's letters.

    A letter holds six bits from "0" up: five of the number, the lowest first, and one that says
    that more follow; the last letter's fifth bit is the sign. From the fourth number on it is the
    difference to the number two before.
    """
    if not counts or not counts.isascii():
        raise MaskFault(MALFORMED)
    letters = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    if letters.min() < 0 or letters.max() > 63:
        raise MaskFault(MALFORMED)
    last = (letters & 32) == 0
    ends = np.flatnonzero(last) + 1
    if not last[-1]:
        raise MaskFault(MALFORMED)
    starts = np.concatenate([[0], ends[:-1]])
    # Eight letters are 40 bits, more than any image has pixels, and sums of them fit into 64.
    if (ends - starts).max() > 8:
        raise MaskFault(MALFORMED)
    places = np.arange(len(letters)) - np.repeat(starts, ends - starts)
    values = np.add.reduceat((letters & 31) << (5 * places), starts)
    negative = (letters[ends - 1] & 16) != 0
    values = np.where(negative, values - (1 << (5 * (ends - starts))), values)
    # The first three stand as they are; the third begins the sums of every other one.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _polygons(segmentation: Any, size: tuple[int, int]) -> list[list[float]]:
    """Checked polygons; the library would take four numbers for a box."""
    if not isinstance(segmentation, list) or not segmentation:
        raise MaskFault(MALFORMED)
    furthest = max(size)
    polygons: list[list[float]] = []
    for polygon in segmentation:
        points = _array(polygon, "iuf").astype(np.float64)
        if len(points) < 6 or len(points) % 2 or not np.isfinite(points).all():
            raise MaskFault(MALFORMED)
        # Drawing takes time and memory by length: nothing real is as far out as the image is long.
        if points.min() < -furthest or points.max() > 2 * furthest:
            raise MaskFault(MALFORMED)
        polygons.append(points.tolist())
    return polygons


def _array(values: Any, kinds: str) -> np.ndarray:
    """A flat list of numbers as an array of one of the kinds of number."""
    if not isinstance(values, list) or not values:
        raise MaskFault(MALFORMED)
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise MaskFault(MALFORMED) from error
    if array.ndim != 1 or array.dtype.kind not in kinds:
        raise MaskFault(MALFORMED)
    return array
