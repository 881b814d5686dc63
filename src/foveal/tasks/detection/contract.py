"""What every detector is, whatever library its head comes from."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.models.pyramid import OnPyramid

# Those of a batch differ in size.
Image = Float[Tensor, "c _h _w"]


class Target(TypedDict):
    """The objects of one image.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the image as the network gets it.
        labels: classes from 0 up.
        masks: of the objects; only where the data have them.
        crowd: objects that stand for many, left out of training and not counted in judging.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    masks: NotRequired[Bool[Tensor, "n h w"]]
    crowd: NotRequired[Bool[Tensor, " n"]]


class Found(TypedDict):
    """The objects that a detector finds in one image, the surest first.

    Attributes:
        boxes: x1, y1, x2, y2 in pixels of the image as the network got it.
        labels: classes from 0 up.
        scores: confidence in [0, 1].
        masks: of the objects, where the head draws them.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]
    masks: NotRequired[Bool[Tensor, "n h w"]]


class Detector(OnPyramid, ABC):
    """A backbone with a head that finds objects.

    Called with targets it gives its losses, called without them what it finds; both go through
    `forward`, so that wrappers for several devices and mixed precision see them.

    Args:
        num_classes: kinds of objects, background not counted.

    Attributes:
        has_masks: whether the head draws masks, and learns from them.
    """

    has_masks: bool = False

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes

    def forward(
        self, images: Sequence[Image], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Found]:
        """Normalised images of any sizes, and their objects while training."""
        if targets is None:
            return self.find(images)
        return self.reaching_all(self.losses(images, targets))

    @abstractmethod
    def losses(self, images: Sequence[Image], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Weighted parts of the loss by name; their sum is to be minimised."""

    @abstractmethod
    def find(self, images: Sequence[Image]) -> list[Found]:
        """The objects in each image."""
