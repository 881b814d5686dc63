"""Figures of one evaluation of a detector."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from foveal.tasks.detection.average_precision import (
    IOU_THRESHOLDS,
    RECALLS,
    AveragePrecision,
    PrecisionTables,
    mean_of_known,
)
from foveal.tasks.detection.matching import (
    Matches,
    best_threshold,
    confusion_counts,
    match,
)
from foveal.tasks.detection.records import ImageRecord

BACKGROUND = "background"

# The places of 0.5 and 0.75 among COCO's thresholds.
_CURVES = (0, 5)


@dataclass(frozen=True)
class ClassDetection:
    """One class's figures, in [0, 1]; None where there is no object of it to find.

    Attributes:
        name: of the class.
        num_objects: to be found, crowds aside.
        map: mean average precision over COCO's IoU thresholds.
        map_50: average precision at IoU 0.5.
        mar_100: mean recall of up to a hundred found objects an image.
        mask_map: as `map`, of masks; None without masks, too.
    """

    name: str
    num_objects: int
    map: float | None
    map_50: float | None
    mar_100: float | None
    mask_map: float | None


@dataclass(frozen=True, eq=False)
class PrecisionRecallCurve:
    """Precision against recall of one class's boxes, as COCO takes its mean.

    Attributes:
        name: of the class.
        iou: from which overlap on a box counts.
        recall: 0, 0.01, …, 1.
        precision: the best at this recall or a higher one; 0 where it is not reached.
        scores: least score of the boxes that reach the recall; 0 where it is not reached.
    """

    name: str
    iou: float
    recall: Float[np.ndarray, " 101"]
    precision: Float[np.ndarray, " 101"]
    scores: Float[np.ndarray, " 101"]


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """Figures of one evaluation.

    Attributes:
        classes: names by index.
        num_images: how many were judged.
        num_objects: in them, crowds aside.
        boxes: COCO's figures of the boxes.
        masks: those of the masks, where both sides have them.
        per_class: the same, class by class.
        curves: of every class with objects, at IoU 0.5 and at 0.75.
        score_threshold: from which score on found objects count in `confusion`.
        confusion: objects by true class (row) and found class (column) at IoU 0.5; the last row is
            what was found where nothing is, the last column what was not found.
    """

    classes: tuple[str, ...]
    num_images: int
    num_objects: int
    boxes: AveragePrecision
    masks: AveragePrecision | None
    per_class: tuple[ClassDetection, ...]
    curves: tuple[PrecisionRecallCurve, ...]
    score_threshold: float
    confusion: Int[np.ndarray, "true found"]

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain values, for JSON."""
        return _plain(asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def result_of(
    records: Sequence[ImageRecord],
    classes: Sequence[str],
    boxes: PrecisionTables,
    masks: PrecisionTables | None,
    score_threshold: float | None = None,
) -> DetectionResult:
    """All figures of judged images.

    Args:
        records: the images.
        classes: names by index.
        boxes: from `precision_tables`.
        masks: likewise, where there are masks.
        score_threshold: for the confusions; None takes the one with the best F1.
    """
    threshold = best_threshold(records) if score_threshold is None else score_threshold
    matches = [match(record, threshold) for record in records]
    counts = np.zeros(len(classes), np.int64)
    for record in records:
        np.add.at(counts, record.true.labels[~record.true.crowd], 1)
    return DetectionResult(
        tuple(classes),
        len(records),
        int(counts.sum()),
        boxes.figures(),
        None if masks is None else masks.figures(),
        tuple(_of_class(name, int(counts[k]), k, boxes, masks) for k, name in enumerate(classes)),
        _curves(classes, counts, boxes),
        threshold,
        confusion_counts(records, matches, len(classes)),
    )


def matches_of(result: DetectionResult, records: Sequence[ImageRecord]) -> list[Matches]:
    """Which found object stands for which true one, as the result's confusions count them."""
    return [match(record, result.score_threshold) for record in records]


def _of_class(
    name: str, count: int, k: int, boxes: PrecisionTables, masks: PrecisionTables | None
) -> ClassDetection:
    return ClassDetection(
        name,
        count,
        mean_of_known(boxes.precision[:, :, k, 0, 2]),
        mean_of_known(boxes.precision[0, :, k, 0, 2]),
        mean_of_known(boxes.recall[:, k, 0, 2]),
        None if masks is None else mean_of_known(masks.precision[:, :, k, 0, 2]),
    )


def _curves(
    classes: Sequence[str], counts: Int[np.ndarray, " classes"], tables: PrecisionTables
) -> tuple[PrecisionRecallCurve, ...]:
    return tuple(
        PrecisionRecallCurve(
            name,
            float(IOU_THRESHOLDS[t]),
            RECALLS,
            tables.precision[t, :, k, 0, 2],
            tables.scores[t, :, k, 0, 2],
        )
        for t in _CURVES
        for k, name in enumerate(classes)
        if counts[k]
    )
