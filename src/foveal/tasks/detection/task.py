"""Detection, as the training loop knows it."""

from collections.abc import Mapping
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn

from foveal.tasks.detection.contract import Target
from foveal.tasks.detection.meter import DetectionMeter, Outputs
from foveal.tasks.detection.records import TrueObjects, coco_masks


class Detection:
    """Losses of a `Detector`, and COCO's figures in pixels of the original pictures.

    Args:
        num_classes: kinds of objects.
        masks: judge masks, too, where detector and data have them.
        truths: what is in the images to judge by, by id, in place of the samples' targets, which
            went through the network's image; see `foveal.tasks.detection.truths.read_truths`.

    Raises:
        MissingExtraError: faster-coco-eval is not installed.
    """

    best_score = "map"

    def __init__(
        self,
        num_classes: int,
        *,
        masks: bool = True,
        truths: Mapping[int, TrueObjects] | None = None,
    ):
        # Now, and not when the first epoch is over.
        coco_masks()
        self.num_classes = num_classes
        self.masks = masks
        self.truths = truths

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Float[Tensor, ""]:
        """The sum of the detector's losses, in float32; crowds are left out."""
        losses = model(batch["image"], [_single(target) for target in batch["target"]])
        total = sum(part.float() for part in losses.values())
        return cast(Tensor, total)

    def predict(self, model: nn.Module, batch: Mapping[str, Any]) -> Outputs:
        """What was found, and all that it takes to judge it."""
        seen = [(int(image.shape[-2]), int(image.shape[-1])) for image in batch["image"]]
        sizes = [(int(height), int(width)) for height, width in batch["size"]]
        ids = [int(image_id) for image_id in batch["image_id"]]
        found = model(batch["image"])
        return found, batch["target"], seen, sizes, ids, self.names(batch)

    def count(self, batch: Mapping[str, Any]) -> int:
        """Images in the batch."""
        return len(batch["image"])

    def names(self, batch: Mapping[str, Any]) -> list[str]:
        """The images' files."""
        return list(map(str, batch["name"]))

    def meter(self) -> DetectionMeter:
        """A fresh meter."""
        return DetectionMeter(self.num_classes, masks=self.masks, truths=self.truths)


def _single(target: Target) -> Target:
    """The objects that stand for one each."""
    crowd = target.get("crowd")
    if crowd is None or not crowd.any():
        return target
    kept = {key: cast(Tensor, value)[~crowd] for key, value in target.items()}
    return cast(Target, kept)
