"""Adds up an evaluation of a segmenter as one confusion matrix."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.errors import FovealError
from foveal.tasks.segmentation.result import (
    SegmentationResult,
    mean_accuracy,
    mean_iou,
    pixel_accuracy,
)

Labels = Int[Tensor, "*pixels"]


class SegmentationMeter:
    """Counts pixels by true and predicted class.

    The figures are those of mmseg: over the pixels of all images together, without the ignored
    ones. A class that neither labels nor predictions have is left out of the mean IoU, and one
    that no label has out of the mean accuracy; a class that is predicted but nowhere labelled
    counts with an IoU of 0.

    Args:
        num_classes: kinds of things.
        ignore_index: label of pixels that do not count.

    Attributes:
        confusion: pixels by true (row) and predicted class (column).
        num_images: judged.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255):
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.num_images = 0

    def update(self, outputs: tuple[Tensor, ...]) -> None:
        """Take in predicted classes (B, h, w) and labels (B, h, w).

        Raises:
            FovealError: a label is neither a class nor the ignored one.
        """
        predicted, labels = outputs
        self.confusion += confusion_of(predicted, labels, self.num_classes, self.ignore_index)
        self.num_images += len(labels)

    def sums(self) -> Float[Tensor, " n"]:
        """The number of images and the matrix."""
        count = torch.tensor([self.num_images])
        return torch.cat([count, self.confusion.flatten()]).double()

    def take_sums(self, sums: Float[Tensor, " n"]) -> None:
        """Stand for the images of all processes, whose sums were added up."""
        counts = sums.cpu().round().long()
        self.num_images = int(counts[0])
        self.confusion = counts[1:].view(self.num_classes, self.num_classes)

    def scores(self) -> dict[str, float]:
        """Mean IoU, mean accuracy of the classes, and accuracy of all pixels, in per cent.

        Raises:
            FovealError: no pixel counted.
        """
        matrix = self.confusion.numpy()
        return {
            "miou": mean_iou(matrix),
            "macc": mean_accuracy(matrix),
            "aacc": pixel_accuracy(matrix),
        }

    def result(self, classes: Sequence[str]) -> SegmentationResult:
        """Everything, with the classes' names."""
        return SegmentationResult(tuple(classes), self.num_images, self.confusion.numpy().copy())


def confusion_of(
    predicted: Labels, labels: Labels, num_classes: int, ignore_index: int = 255
) -> Int[Tensor, "classes classes"]:
    """Pixels by true (row) and predicted class (column), on the CPU.

    Raises:
        FovealError: a label is neither a class nor the ignored one.
    """
    counts = labels != ignore_index
    true, found = labels[counts].long(), predicted[counts].long()
    low, high = (int(end) for end in true.aminmax()) if true.numel() else (0, 0)
    if low < 0 or high >= num_classes:
        raise FovealError(
            f"The labels run from {low} to {high}, the ignored {ignore_index} aside, and the model "
            f"has {num_classes} classes from 0 up; correct the labels or the list of classes."
        )
    cells = torch.bincount(true * num_classes + found, minlength=num_classes**2)
    return cells.view(num_classes, num_classes).cpu()
