"""Figures of a segmenter over an evaluation, all of them read off one confusion matrix."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from foveal.errors import FovealError

Matrix = Int[np.ndarray, "classes classes"]


@dataclass(frozen=True)
class ClassSegmentation:
    """One class's share of an evaluation.

    Attributes:
        name: of the class.
        num_pixels: that have this label.
        num_predicted: that were taken for this class.
        num_correct: both.
    """

    name: str
    num_pixels: int
    num_predicted: int
    num_correct: int

    @property
    def iou(self) -> float | None:
        """Intersection over union in per cent; None where neither labels nor predictions have it.

        A class that is predicted but nowhere labelled has 0.
        """
        union = self.num_pixels + self.num_predicted - self.num_correct
        return 100 * self.num_correct / union if union else None

    @property
    def accuracy(self) -> float | None:
        """Share of its pixels that were found, in per cent; None where no label has it."""
        return 100 * self.num_correct / self.num_pixels if self.num_pixels else None


@dataclass(frozen=True)
class PixelConfusion:
    """How many pixels of one class were taken for another."""

    true: str
    predicted: str
    num_pixels: int
    share: float
    """Of the pixels of the true class, in per cent."""


@dataclass(frozen=True, eq=False)
class SegmentationResult:
    """Figures of one evaluation, over all pixels that count of all images together.

    Attributes:
        classes: names by index.
        num_images: how many were judged.
        confusion: pixels by true (row) and predicted class (column), int64.
    """

    classes: tuple[str, ...]
    num_images: int
    confusion: Matrix

    @property
    def miou(self) -> float:
        """Mean intersection over union of the classes that have one, in per cent."""
        return mean_iou(self.confusion)

    @property
    def macc(self) -> float:
        """Mean accuracy of the classes that have one, in per cent."""
        return mean_accuracy(self.confusion)

    @property
    def aacc(self) -> float:
        """Share of all pixels that are right, in per cent."""
        return pixel_accuracy(self.confusion)

    def per_class(self) -> tuple[ClassSegmentation, ...]:
        """The same, class by class."""
        pixels, predicted = self.confusion.sum(1).tolist(), self.confusion.sum(0).tolist()
        correct = self.confusion.diagonal().tolist()
        return tuple(
            ClassSegmentation(*row)
            for row in zip(self.classes, pixels, predicted, correct, strict=True)
        )

    def confusions(self, limit: int | None = None) -> tuple[PixelConfusion, ...]:
        """Pairs of a class and what it was taken for, the commonest first; `limit` of them."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        pixels = self.confusion.sum(1)
        pairs = [
            PixelConfusion(
                self.classes[i],
                self.classes[j],
                int(wrong[i, j]),
                float(100 * wrong[i, j] / pixels[i]),
            )
            for i, j in np.argwhere(wrong)
        ]
        return tuple(sorted(pairs, key=lambda pair: -pair.num_pixels)[:limit])


def class_ious(confusion: Matrix) -> Float[np.ndarray, " classes"]:
    """Intersection over union in per cent; NaN where neither labels nor predictions have it."""
    correct = confusion.diagonal()
    return _share(correct, confusion.sum(0) + confusion.sum(1) - correct)


def class_accuracies(confusion: Matrix) -> Float[np.ndarray, " classes"]:
    """Share of each class's pixels that were found, in per cent; NaN where there are none."""
    return _share(confusion.diagonal(), confusion.sum(1))


def mean_iou(confusion: Matrix) -> float:
    """Of the classes that have one.

    Raises:
        FovealError: there is no pixel at all.
    """
    _require_pixels(confusion)
    return float(np.nanmean(class_ious(confusion)))


def mean_accuracy(confusion: Matrix) -> float:
    """Of the classes that have one; errors as of `mean_iou`."""
    _require_pixels(confusion)
    return float(np.nanmean(class_accuracies(confusion)))


def pixel_accuracy(confusion: Matrix) -> float:
    """Share of all pixels that are right, in per cent; errors as of `mean_iou`."""
    _require_pixels(confusion)
    return float(100 * confusion.trace() / confusion.sum())


def _share(part: Int[np.ndarray, " n"], whole: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    with np.errstate(invalid="ignore"):
        return 100 * part / whole


def _require_pixels(confusion: Matrix) -> None:
    if not confusion.any():
        raise FovealError(
            "No pixel that was judged has a label other than the ignored one; check the labels and "
            "ignore_index."
        )
