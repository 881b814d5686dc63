"""A trained model as the server uses it: one function for a thread of images, one for the model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from foveal import prepare_for_inference
from foveal.data.images import mode_of
from foveal.data.transforms import eval_transform
from foveal.errors import FovealError
from foveal.tasks.classification import top_classes
from foveal.tools.trained import TrainedModel, available_device

from .pictures import picture


class Classifier:
    """The model, prepared for inference, on the fastest device there is.

    Args:
        trained: any with classes; it is left as it is.

    Raises:
        FovealError: the model has no classifier.
    """

    def __init__(self, trained: TrainedModel):
        if not trained.card.classes:
            raise FovealError(
                f"{trained.card.model} has no classifier, so it cannot name a class; serve a "
                "checkpoint of `foveal train`."
            )
        self.card, preprocessing = trained.card, trained.card.preprocessing
        self.mode = mode_of(preprocessing.in_chans)
        self._transform = eval_transform(preprocessing)
        self._device = available_device()
        self._model = prepare_for_inference(trained.model).to(self._device)

    def read(self, body: bytes, content_type: str, max_pixels: int) -> Tensor:
        """The model's input (channels, height, width) from an upload; see `picture`."""
        return self._transform(picture(body, content_type, self.mode, max_pixels))

    def run(self, images: Sequence[Tensor]) -> Sequence[Tensor]:
        """The logits (classes) of each image."""
        with torch.inference_mode():
            logits = self._model(torch.stack(list(images)).to(self._device))
        return list(logits.float().cpu())

    def warm_up(self, max_batch: int) -> None:
        """So that the first requests are answered as fast as the rest."""
        preprocessing = self.card.preprocessing
        side = preprocessing.image_size
        blank = torch.zeros(preprocessing.in_chans, side, side)
        for size in (1, max_batch):
            self.run([blank] * size)

    def classes(self, logits: Tensor, top: int) -> list[dict[str, Any]]:
        """The likeliest classes, the first first."""
        (prediction,) = top_classes(logits[None], self.card.classes, ["upload"], top)
        return [
            {"index": score.index, "class": score.name, "probability": score.probability}
            for score in prediction.scores
        ]

    def metadata(self) -> dict[str, Any]:
        """What a client wants to know."""
        preprocessing = self.card.preprocessing
        side = preprocessing.image_size
        return {
            "model": self.card.model,
            "classes": list(self.card.classes),
            "input_size": [preprocessing.in_chans, side, side],
            "preprocessing": preprocessing.to_dict(),
        }
