"""Which found object stands for which true one at IoU 0.5: confusions, and figures of an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from foveal.tasks.detection.records import FoundObjects, ImageRecord, coco_masks

IOU = 0.5
NOBODY = -1

# Where nothing was found to choose a threshold by.
_ANY_THRESHOLD = 0.5


@dataclass(frozen=True, eq=False)
class Matches:
    """Pairs of what was found in one image with a score of at least the threshold, and is there.

    Attributes:
        partner: of each found object, the true one that it stands for, or −1.
        counted: found objects that count: sure enough, and not part of a crowd.
        right: those of them whose partner is of their class.
        missed: true objects, crowds aside, that no found object of their class stands for.
    """

    partner: Int[np.ndarray, " found"]
    counted: Bool[np.ndarray, " found"]
    right: Bool[np.ndarray, " found"]
    missed: Bool[np.ndarray, " true"]

    @property
    def num_right(self) -> int:
        """Objects found."""
        return int(self.right.sum())

    @property
    def num_false(self) -> int:
        """Found objects that are not there, or of another class, or found already."""
        return int((self.counted & ~self.right).sum())

    @property
    def num_missed(self) -> int:
        """Objects not found."""
        return int(self.missed.sum())

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 where nothing is there and nothing was found."""
        total = 2 * self.num_right + self.num_false + self.num_missed
        return 2 * self.num_right / total if total else 1.0


def match(record: ImageRecord, threshold: float = 0.0) -> Matches:
    """Pair the boxes of an image, the surest first, each with the free one it overlaps most.

    Own class goes first; what is left over then pairs with any class, which is a confusion. As in
    COCO's figures, a found object that lies half in a crowd of its class does not count.

    Args:
        record: the image.
        threshold: least score.
    """
    true, found = record.true, record.found
    overlaps = _overlaps(record)
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.scores[order] >= threshold]
    partner = np.full(len(found), NOBODY)
    counted = found.scores >= threshold
    free = ~true.crowd
    for i in order:
        same = true.labels == found.labels[i]
        partner[i] = _best(overlaps[i], free & same)
        if partner[i] != NOBODY:
            free[partner[i]] = False
        elif _best(overlaps[i], true.crowd & same) != NOBODY:
            counted[i] = False
    right, missed = partner != NOBODY, free.copy()
    for i in order[(counted & ~right)[order]]:
        partner[i] = _best(overlaps[i], free)
        if partner[i] != NOBODY:
            free[partner[i]] = False
    return Matches(partner, counted, right, missed)


def _best(overlaps: Float[np.ndarray, " true"], among: Bool[np.ndarray, " true"]) -> int:
    """The object of `among` that overlaps most, if by half."""
    values = np.where(among, overlaps, -1.0)
    return int(values.argmax()) if values.size and values.max() >= IOU else NOBODY


def _overlaps(record: ImageRecord) -> Float[np.ndarray, "found true"]:
    """IoU of the boxes; with a crowd, the share of the found box that lies in it."""
    true, found = record.true, record.found
    if not len(true) or not len(found):
        return np.zeros((len(found), len(true)))
    return np.asarray(coco_masks().iou(found.xywh, true.xywh, true.crowd.astype(int).tolist()))


def confusion_counts(
    records: Sequence[ImageRecord], matches: Sequence[Matches], num_classes: int
) -> Int[np.ndarray, "true found"]:
    """Objects by true class (row) and class they were found as (column).

    The last row counts what was found where nothing is, the last column what was not found.
    """
    side = num_classes + 1
    counts = np.zeros(side * side, np.int64)
    for record, matched in zip(records, matches, strict=True):
        paired = matched.partner[matched.counted]
        classes = np.append(record.true.labels, num_classes)
        # −1 is the last entry: background.
        np.add.at(counts, classes[paired] * side + record.found.labels[matched.counted], 1)
        left = ~record.true.crowd
        left[paired[paired != NOBODY]] = False
        np.add.at(counts, record.true.labels[left] * side + num_classes, 1)
    return counts.reshape(side, side)


def best_threshold(records: Sequence[ImageRecord]) -> float:
    """The score from which on the F1 over all objects is highest, at IoU 0.5."""
    matches = [match(record) for record in records]
    num_true = sum(int((~record.true.crowd).sum()) for record in records)
    pairs = list(zip(records, matches, strict=True))
    scores = np.concatenate([np.empty(0), *(_counted(r.found, m) for r, m in pairs)])
    right = np.concatenate([np.empty(0, bool), *(m.right[m.counted] for m in matches)])
    if not len(scores):
        return _ANY_THRESHOLD
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], right[order]
    f1 = 2 * right.cumsum() / (np.arange(1, len(right) + 1) + num_true)
    # Objects of equal score come in or stay out together.
    last = np.append(scores[1:] < scores[:-1], True)
    return float(scores[np.where(last, f1, -1).argmax()])


def _counted(found: FoundObjects, matches: Matches) -> Float[np.ndarray, " n"]:
    return found.scores[matches.counted]
