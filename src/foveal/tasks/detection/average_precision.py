"""Average precision and recall as COCO defines them, computed by faster-coco-eval."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from foveal.errors import MissingExtraError
from foveal.tasks.detection.records import ImageRecord, Objects, mask_areas

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
AREAS = ("all", "small", "medium", "large")
MOST_DETECTIONS = (1, 10, 100)

# What faster-coco-eval and pycocotools say where nothing of a kind is there to be found.
_NOTHING = -1


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's twelve figures, in [0, 1]; None where there is no object to find.

    Attributes:
        map: mean average precision over IoU thresholds 0.50, 0.55, …, 0.95.
        map_50: at IoU 0.5.
        map_75: at IoU 0.75.
        map_small: of objects up to 32² pixels.
        map_medium: from 32² to 96².
        map_large: from 96² up.
        mar_1: mean average recall of one detection an image and class.
        mar_10: of ten.
        mar_100: of a hundred.
        mar_small: of a hundred, small objects.
        mar_medium: medium ones.
        mar_large: large ones.
    """

    map: float | None
    map_50: float | None
    map_75: float | None
    map_small: float | None
    map_medium: float | None
    map_large: float | None
    mar_1: float | None
    mar_10: float | None
    mar_100: float | None
    mar_small: float | None
    mar_medium: float | None
    mar_large: float | None


@dataclass(frozen=True, eq=False)
class PrecisionTables:
    """All that COCO's figures are means of; −1 where there is no object to find.

    Attributes:
        precision: at every IoU threshold, recall, class, range of areas and number of detections.
        scores: of the detection at which that recall is reached.
        recall: the highest reached.
    """

    precision: Float[np.ndarray, "iou recalls classes areas most"]
    scores: Float[np.ndarray, "iou recalls classes areas most"]
    recall: Float[np.ndarray, "iou classes areas most"]

    def figures(self) -> AveragePrecision:
        """The means."""
        p, r = self.precision, self.recall
        return AveragePrecision(
            mean_of_known(p[:, :, :, 0, 2]),
            mean_of_known(p[0, :, :, 0, 2]),
            mean_of_known(p[5, :, :, 0, 2]),
            *(mean_of_known(p[:, :, :, area, 2]) for area in (1, 2, 3)),
            *(mean_of_known(r[:, :, 0, most]) for most in range(3)),
            *(mean_of_known(r[:, :, area, 2]) for area in (1, 2, 3)),
        )


def mean_of_known(values: np.ndarray) -> float | None:
    """The mean of what is not −1."""
    known = values[values > _NOTHING]
    return float(known.mean()) if known.size else None


def precision_tables(
    records: Sequence[ImageRecord], num_classes: int, *, masks: bool = False
) -> PrecisionTables:
    """Match what was found with what is there, as COCO does.

    Args:
        records: the images, each once.
        num_classes: kinds of objects.
        masks: overlaps of masks instead of boxes; every object must have one.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
    """
    coco, evaluation = _coco_eval()
    images = [{"id": r.image_id, "height": r.size[0], "width": r.size[1]} for r in records]
    # Ids count from 1: there, 0 stands for "not matched".
    head = {"images": images, "categories": [{"id": 1 + label} for label in range(num_classes)]}
    true: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for record in records:
        _add(true, record, record.true, masks, crowd=record.true.crowd, areas=record.true.areas)
        areas = record.found.xywh[:, 2] * record.found.xywh[:, 3]
        if masks and record.found.masks is not None:
            areas = mask_areas(record.found.masks)
        _add(found, record, record.found, masks, scores=record.found.scores, areas=areas)
    judge = evaluation(
        coco({**head, "annotations": true}),
        coco({**head, "annotations": found}),
        "segm" if masks else "bbox",
        print_function=_say_nothing,
    )
    judge.params.iouThrs, judge.params.recThrs = IOU_THRESHOLDS, RECALLS
    judge.params.maxDets = list(MOST_DETECTIONS)
    judge.evaluate()
    judge.accumulate()
    tables = (np.asarray(judge.eval[name]) for name in ("precision", "scores", "recall"))
    return PrecisionTables(*tables)


def _add(
    annotations: list[dict[str, Any]],
    record: ImageRecord,
    objects: Objects,
    masks: bool,
    *,
    areas: np.ndarray,
    crowd: np.ndarray | None = None,
    scores: np.ndarray | None = None,
) -> None:
    """COCO's entries of one image's objects, numbered on."""
    pairs = zip(objects.xywh.tolist(), objects.labels.tolist(), strict=True)
    for index, (box, label) in enumerate(pairs):
        entry: dict[str, Any] = {
            "id": 1 + len(annotations),
            "image_id": record.image_id,
            "category_id": 1 + label,
            "bbox": box,
            "area": float(areas[index]),
            "iscrowd": 0 if crowd is None else int(crowd[index]),
        }
        if scores is not None:
            entry["score"] = float(scores[index])
        if masks and objects.masks is not None:
            entry["segmentation"] = dict(objects.masks[index])
        annotations.append(entry)


def _coco_eval() -> tuple[Any, Any]:
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise MissingExtraError("faster-coco-eval", "dense") from error
    return COCO, COCOeval_faster


def _say_nothing(*_: object) -> None:
    """In place of a printer."""
