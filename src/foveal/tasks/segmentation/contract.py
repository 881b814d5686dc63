"""What every segmenter is, whatever library its head comes from."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor

from foveal.models.pyramid import OnPyramid


class Segmenter(OnPyramid, ABC):
    """A backbone with a head that gives every pixel a class.

    Called with labels it gives its losses, called without them the scores of the classes; both go
    through `forward`, so that wrappers for several devices and mixed precision see them.

    Args:
        num_classes: kinds of things.
        ignore_index: label of pixels that do not count.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255):
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def forward(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b h w"] | None = None
    ) -> dict[str, Tensor] | Float[Tensor, "b classes h w"]:
        """Normalised images of any size, and the class of every pixel while training."""
        if labels is None:
            return self.scores(images)
        return self.reaching_all(self.losses(images, labels))

    @abstractmethod
    def losses(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b h w"]
    ) -> dict[str, Tensor]:
        """Weighted parts of the loss by name; their sum is to be minimised."""

    @abstractmethod
    def scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h w"]:
        """Logarithms of (unnormalised) probabilities of the classes at every pixel.

        The softmax over classes is what several looks at an image are averaged by.
        """
