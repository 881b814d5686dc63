"""COCO files as data for detectors: what they list is checked before anything is trained."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from foveal.data.coco_scan import CocoScan, ImageEntry, ObjectEntry, scan_coco
from foveal.data.detection import AnnotatedImage, AnnotatedImages, DetectionImages
from foveal.data.problems import require_no_problems
from foveal.errors import FovealError
from foveal.files import write_text


def read_coco(
    data: str | Path, images: str | Path, *, masks: bool | None = False, strict: bool = False
) -> AnnotatedImages:
    """The images and objects of one COCO file, every image decoded once to know that it can be.

    Annotations that cannot be used are left out, boxes partly outside their image are clipped,
    and `problems` of the result counts and names both.

    Args:
        data: the JSON file.
        images: the folder its file names are relative to.
        masks: whether objects need one; None to ask for them if any object has one.
        strict: refuse a file with problems.

    Raises:
        FovealError: it is no COCO file, no image can be used, or there are problems and `strict`.
        MissingExtraError: masks need faster-coco-eval, and it is not installed.
    """
    found = _read(Path(data), Path(images), masks)
    if strict:
        require_no_problems(found.problems)
    return found


def read_detection_images(
    train: str | Path,
    val: str | Path,
    images: str | Path,
    *,
    val_images: str | Path | None = None,
    masks: bool = False,
    strict: bool = False,
) -> DetectionImages:
    """COCO files to train on and to judge by; as `read_coco`.

    Args:
        train: the JSON file of what is trained on; its categories are the classes.
        val: that of what is held out; with categories of `train`.
        images: the folder the file names are relative to.
        val_images: that of `val`, if it is another.
        masks: whether objects need one.
        strict: refuse files with problems.

    Raises:
        FovealError: as `read_coco`; or nothing is annotated, or the categories differ.
    """
    trained = _read(Path(train), Path(images), masks)
    held = _read(Path(val), Path(images if val_images is None else val_images), masks)
    if strict:
        require_no_problems(trained.problems, held.problems)
    for part, path in ((trained, train), (held, val)):
        require_objects(part, path, masks)
    held = _as_in_training(held, trained, (train, val))
    return DetectionImages(trained.classes, trained.category_ids, trained, held)


def write_coco(target: str | Path, content: dict[str, Any]) -> None:
    """Write the lists images, annotations and categories as a COCO file, whole or not at all."""
    write_text(target, json.dumps(content) + "\n")


def _read(data: Path, images: Path, masks: bool | None) -> AnnotatedImages:
    if not images.is_dir():
        raise FovealError(f"{images} is no folder; give the one that holds the images of {data}.")
    scan = scan_coco(data, images, masks=masks)
    return AnnotatedImages(
        classes=tuple(scan.categories.values()),
        category_ids=tuple(scan.categories),
        images=_annotated(scan),
        problems=scan.problems,
    )


def _annotated(scan: CocoScan) -> tuple[AnnotatedImage, ...]:
    return tuple(
        _image(entry, scan.objects[entry.image_id], scan.with_masks) for entry in scan.images
    )


def _image(entry: ImageEntry, objects: Sequence[ObjectEntry], masks: bool) -> AnnotatedImage:
    return AnnotatedImage(
        path=entry.path,
        image_id=entry.image_id,
        size=entry.size,
        boxes=np.array([one.box for one in objects], np.float32).reshape(-1, 4),
        labels=np.array([one.label for one in objects], np.int64),
        crowd=np.array([one.crowd for one in objects], np.bool_),
        areas=np.array([one.area for one in objects], np.float32),
        masks=tuple(one.mask for one in objects if one.mask is not None) if masks else None,
        upright=entry.upright,
    )


def require_objects(part: AnnotatedImages, path: str | Path, masks: bool) -> None:
    """Raise if there is nothing to learn or to judge by.

    Args:
        part: what was read.
        path: the file that it was read from.
        masks: whether objects needed one.
    """
    if part.num_objects:
        return
    what = "object with a mask" if masks else "object"
    why = f" ({part.problems})" if part.problems else ""
    raise FovealError(
        f"{path} has no {what} that can be used{why}; annotate some, or check what it lists with "
        "foveal dataset check."
    )


def _as_in_training(
    held: AnnotatedImages, trained: AnnotatedImages, paths: tuple[str | Path, str | Path]
) -> AnnotatedImages:
    """`held` with the labels of `trained`, of whose categories it may have a part."""
    labels = {number: label for label, number in enumerate(trained.category_ids)}
    for number, name in zip(held.category_ids, held.classes, strict=True):
        known = trained.classes[labels[number]] if number in labels else None
        if name != known:
            there = f"has {known!r} there" if known else "does not have it"
            raise FovealError(
                f"{paths[1]} has the category {number} {name!r} and {paths[0]} {there}; write "
                "both files with the same categories."
            )
    if held.category_ids == trained.category_ids:
        return held
    return replace(held.with_classes(trained.classes), category_ids=trained.category_ids)
