"""What was found, in the form that COCO's tools and servers read."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foveal.errors import FovealError
from foveal.files import write_text
from foveal.tasks.detection.records import ImageRecord

BOXES, MASKS = "detections.json", "detections_masks.json"


def write_detections(
    records: Iterable[ImageRecord], category_ids: Sequence[int], folder: Path
) -> tuple[Path, ...]:
    """Write `detections.json`, and `detections_masks.json` where masks were found.

    Masks have a file of their own: pycocotools takes areas from boxes where a result has both, and
    its figures of small, medium and large masks would be others.

    Args:
        records: judged images.
        category_ids: the annotations' id of each class.
        folder: is made.

    Returns:
        The files.

    Raises:
        FovealError: a file cannot be written, or a class has no id.
    """
    boxes: list[dict[str, Any]] = []
    masks: list[dict[str, Any]] = []
    for record in records:
        found = record.found
        for index, label in enumerate(found.labels):
            head = {
                "image_id": record.image_id,
                "category_id": _category(category_ids, int(label)),
                "score": float(found.scores[index]),
            }
            boxes.append({**head, "bbox": found.xywh[index].tolist()})
            if found.masks is not None:
                rle = found.masks[index]
                packed = {"size": list(rle["size"]), "counts": _text(rle["counts"])}
                masks.append({**head, "segmentation": packed})
    written = {BOXES: boxes} | ({MASKS: masks} if masks else {})
    for name, entries in written.items():
        write_text(folder / name, json.dumps(entries))
    return tuple(folder / name for name in written)


def _category(category_ids: Sequence[int], label: int) -> int:
    if label >= len(category_ids):
        raise FovealError(
            f"Class {label} was found, and category_ids has {len(category_ids)} ids; give one for "
            "each of the detector's classes."
        )
    return int(category_ids[label])


def _text(counts: bytes | str) -> str:
    return counts.decode("ascii") if isinstance(counts, bytes) else counts
