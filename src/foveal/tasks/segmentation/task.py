"""Segmentation, as the training loop knows it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.tasks.segmentation.meter import SegmentationMeter


class Segmentation:
    """The task of giving every pixel a class.

    A batch has `image` (B, 3, h, w) and `label` (B, h, w); one to be judged may have labels of
    another size than its images, to which the scores are then brought.

    Args:
        num_classes: kinds of things.
        ignore_index: label of pixels that do not count.
        image_names: of the training images, by their `index` in a batch.
    """

    best_score = "miou"

    def __init__(self, num_classes: int, ignore_index: int = 255, image_names: Sequence[str] = ()):
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.image_names = image_names

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Float[Tensor, ""]:
        """The sum of the segmenter's losses."""
        return torch.stack(list(model(batch["image"], batch["label"]).values())).sum()

    def predict(
        self, model: nn.Module, batch: Mapping[str, Any]
    ) -> tuple[Int[Tensor, "b h w"], Int[Tensor, "b h w"]]:
        """The likeliest class of every pixel, and the labels."""
        scores, labels = model(batch["image"]), batch["label"]
        return resized(scores.float(), labels.shape[-2:]).argmax(1), labels

    def count(self, batch: Mapping[str, Any]) -> int:
        """Images in the batch."""
        return len(batch["image"])

    def names(self, batch: Mapping[str, Any]) -> list[str]:
        """The batch's own names, or those of its indices."""
        if "name" in batch or not self.image_names:
            return list(map(str, batch.get("name", ())))
        return [str(self.image_names[index]) for index in batch["index"].tolist()]

    def meter(self) -> SegmentationMeter:
        """A fresh meter."""
        return SegmentationMeter(self.num_classes, self.ignore_index)


def resized(maps: Float[Tensor, "b c h w"], size: Sequence[int]) -> Float[Tensor, "b c h2 w2"]:
    """Maps brought to a size bilinearly; those that have it as they are."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)
