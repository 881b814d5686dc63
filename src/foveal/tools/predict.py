"""What a model takes images for."""

from collections.abc import Sequence
from pathlib import Path

import torch

from foveal.data.images import ImageError, mode_of, read_image, verify_images
from foveal.data.transforms import eval_transform
from foveal.errors import FovealError
from foveal.tasks.classification import Prediction, top_classes
from foveal.tools.trained import TrainedModel


def predict_images(
    trained: TrainedModel, paths: Sequence[str | Path], *, top: int = 5, batch_size: int = 16
) -> list[Prediction]:
    """The likeliest classes of each image file.

    Args:
        trained: the model.
        paths: image files, in the order of the result.
        top: classes an image.
        batch_size: images at a time.

    Raises:
        FovealError: a file is no image, or the model has no classifier.
    """
    card = trained.card
    if not card.classes:
        raise FovealError(
            f"{card.model} from {trained.source} has no classifier, so it cannot name a class; "
            "train one with `foveal train --checkpoint`."
        )
    # Before any work, so that one bad file costs no results.
    for bad in verify_images([Path(path) for path in paths]):
        raise ImageError(f"{bad.path} is not an image that can be read: {bad.reason}.")
    transform, mode = eval_transform(card.preprocessing), mode_of(card.preprocessing.in_chans)
    device = next(trained.model.parameters()).device
    predictions: list[Prediction] = []
    for start in range(0, len(paths), batch_size):
        chosen = paths[start : start + batch_size]
        batch = torch.stack([transform(read_image(path, mode)) for path in chosen])
        with torch.inference_mode():
            logits = trained.model(batch.to(device)).float().cpu()
        predictions += top_classes(logits, card.classes, [str(path) for path in chosen], top)
    return predictions
