"""How often a network, or a file made of it, is right about held-out images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.data.dataset import ImageDataset
from foveal.data.images import mode_of
from foveal.data.loader import eval_loader
from foveal.data.transforms import Preprocessing, eval_transform
from foveal.tasks.classification import ClassificationMeter
from foveal.tools.evaluate import EvaluationImages, EvaluationSettings, judge

Logits = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Verdict:
    """What a network made of the images.

    Attributes:
        top1: share with the right class first, in per cent.
        predictions: the likeliest output for each image, in order.
    """

    top1: float
    predictions: Int[np.ndarray, " n"]

    def agreement(self, other: "Verdict") -> float:
        """Share of images for which both find the same class likeliest, in per cent."""
        return 100 * float((self.predictions == other.predictions).mean())


class _Recorded(nn.Module):
    """Anything that computes logits, as a module on the CPU that remembers what it found."""

    def __init__(self, logits: Logits):
        super().__init__()
        self.logits = logits
        self.found: list[Tensor] = []
        # By which the judge knows the device.
        self.register_parameter("place", nn.Parameter(torch.zeros(())))

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        logits = self.logits(images)
        self.found.append(logits.argmax(-1))
        return logits


def verdict(
    logits: Logits,
    images: EvaluationImages,
    preprocessing: Preprocessing,
    settings: EvaluationSettings,
) -> Verdict:
    """Judge what computes logits (b k) of images (b c h w), both on the CPU."""
    mode = mode_of(preprocessing.in_chans)
    dataset = ImageDataset(images.samples, eval_transform(preprocessing), mode=mode)
    loader = eval_loader(dataset, batch_size=settings.batch_size, workers=settings.workers)
    meter = ClassificationMeter(len(images.labelling.names))
    recorded = _Recorded(logits)
    judge(recorded, loader, images, meter, settings)
    result = meter.result(images.labelling.names)
    return Verdict(result.top1, torch.cat(recorded.found).numpy())
