"""Judging a detector image by image; the figures are means over objects, not sums over images."""

from collections.abc import Mapping, Sequence

from foveal.errors import FovealError
from foveal.tasks.detection.average_precision import (
    AveragePrecision,
    PrecisionTables,
    precision_tables,
)
from foveal.tasks.detection.contract import Found, Target
from foveal.tasks.detection.records import (
    ImageRecord,
    TrueObjects,
    coco_masks,
    found_objects,
    true_objects,
)
from foveal.tasks.detection.result import DetectionResult, result_of

Size = tuple[int, int]

# A batch: what was found, what is there, both in the network's image; that image's size; the
# original picture's; the image's id and name.
Outputs = tuple[
    Sequence[Found],
    Sequence[Target],
    Sequence[Size],
    Sequence[Size],
    Sequence[int],
    Sequence[str],
]

# Shown after each epoch; the rest is in the result.
_SHOWN = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large", "mar_100")


class DetectionMeter:
    """Keeps every judged image, masks as run lengths, until the figures are asked for.

    Args:
        num_classes: kinds of objects.
        masks: judge masks, too, where both sides have them.
        truths: what is in the images, by id, in place of the samples' targets; of `read_truths`.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        masks: bool = True,
        truths: Mapping[int, TrueObjects] | None = None,
    ):
        coco_masks()
        self.num_classes = num_classes
        self.masks = masks
        self.truths = truths
        self._records: dict[int, ImageRecord] = {}

    def update(self, outputs: Outputs) -> None:
        """Take in what `Detection.predict` gave for one batch."""
        for found, target, seen, size, image_id, name in zip(*outputs, strict=True):
            if self.truths is None:
                true = true_objects(target, seen, size, masks=self.masks)
            elif image_id in self.truths:
                true = self.truths[image_id]
            else:
                raise FovealError(
                    f"{name} is image {image_id}, which is not among the {len(self.truths)} images "
                    "to judge by; give the annotations that the samples were read from."
                )
            answer = found_objects(found, seen, size, masks=self.masks)
            self._records[image_id] = ImageRecord(image_id, name, size, true, answer)

    def state(self) -> tuple[ImageRecord, ...]:
        """The images of this process."""
        return tuple(self._records.values())

    def merge(self, states: Sequence[tuple[ImageRecord, ...]]) -> None:
        """Stand for the images of all processes, each image once."""
        self._records = {record.image_id: record for state in states for record in state}

    def records(self) -> tuple[ImageRecord, ...]:
        """The judged images, by rising id, however they were spread over processes."""
        return tuple(self._records[key] for key in sorted(self._records))

    def scores(self) -> dict[str, float]:
        """COCO's figures in [0, 1], those of masks as "mask_map" and so on.

        Left out is what has no object to find, but for "map" itself, which is then 0.
        """
        boxes, masks = self._tables()
        shown = {"map": 0.0, **_named(boxes.figures())}
        return shown if masks is None else shown | _named(masks.figures(), "mask_")

    def result(
        self, classes: Sequence[str], score_threshold: float | None = None
    ) -> DetectionResult:
        """Everything, with the classes' names.

        Args:
            classes: names by index.
            score_threshold: for the confusions; None takes the one with the best F1.
        """
        return result_of(self.records(), classes, *self._tables(), score_threshold)

    def _tables(self) -> tuple[PrecisionTables, PrecisionTables | None]:
        records = self.records()
        boxes = precision_tables(records, self.num_classes)
        if not self.masks or not _all_masked(records):
            return boxes, None
        return boxes, precision_tables(records, self.num_classes, masks=True)


def _named(figures: AveragePrecision, prefix: str = "") -> dict[str, float]:
    known = {name: getattr(figures, name) for name in _SHOWN}
    return {f"{prefix}{name}": value for name, value in known.items() if value is not None}


def _all_masked(records: Sequence[ImageRecord]) -> bool:
    """Whether every object that is there and every one that was found has a mask."""
    sides = [side for record in records for side in (record.true, record.found) if len(side)]
    true = any(len(record.true) for record in records)
    return true and all(side.masks is not None for side in sides)
