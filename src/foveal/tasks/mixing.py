"""Blends of training images and their labels: mixup and CutMix, through torchvision."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.transforms import v2

from foveal.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How often and how strongly batches are blended.

    Attributes:
        mixup: α of mixup's Beta(α, α), 0 for none.
        cutmix: α of CutMix's, 0 for none.
        probability: share of batches that are blended at all.
        switch_probability: of CutMix, where there are both.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    switch_probability: float = 0.5

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0:
            raise OptionError(
                f"mixup and cutmix are 0 or more, got {self.mixup} and {self.cutmix}."
            )
        if not (0 <= self.probability <= 1 and 0 <= self.switch_probability <= 1):
            raise OptionError(
                "mixing.probability and switch_probability lie between 0 and 1, "
                f"got {self.probability} and {self.switch_probability}."
            )

    def blend(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, " b"], num_classes: int
    ) -> tuple[Float[Tensor, "b c h w"], Tensor]:
        """Blended images with shares of each class (b, classes), or both as they are."""
        if not (self.mixup or self.cutmix) or torch.rand(()) >= self.probability:
            return images, labels
        share = self.switch_probability if self.mixup and self.cutmix else float(self.cutmix > 0)
        if torch.rand(()) < share:
            return v2.CutMix(alpha=self.cutmix, num_classes=num_classes)(images, labels)
        return v2.MixUp(alpha=self.mixup, num_classes=num_classes)(images, labels)
