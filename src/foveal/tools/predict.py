"""What a model takes images for."""

from collections.abc import Sequence
from pathlib import Path

import torch

from foveal.data.images import Source, mode_of, read_image, require_images
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
    _require_classifier(trained)
    # Before any work, so that one bad file costs no results.
    files = [Path(path) for path in paths]
    require_images(files)
    names = [str(path) for path in paths]
    return predict_sources(trained, files, names, top=top, batch_size=batch_size)


def predict_sources(
    trained: TrainedModel,
    sources: Sequence[Source],
    names: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 16,
) -> list[Prediction]:
    """The likeliest classes of each image in a file or in memory.

    Args:
        trained: the model.
        sources: the images, in the order of the result.
        names: of the images.
        top: classes an image.
        batch_size: images at a time.

    Raises:
        FovealError: an image cannot be read, or the model has no classifier.
    """
    _require_classifier(trained)
    card = trained.card
    transform, mode = eval_transform(card.preprocessing), mode_of(card.preprocessing.in_chans)
    device = next(trained.model.parameters()).device
    predictions: list[Prediction] = []
    for start in range(0, len(sources), batch_size):
        part = slice(start, start + batch_size)
        batch = torch.stack([transform(read_image(source, mode)) for source in sources[part]])
        with torch.inference_mode():
            logits = trained.model(batch.to(device)).float().cpu()
        predictions += top_classes(logits, card.classes, names[part], top)
    return predictions


def _require_classifier(trained: TrainedModel) -> None:
    if not trained.card.classes:
        raise FovealError(
            f"{trained.card.model} from {trained.source} has no classifier, so it cannot name a "
            "class; train one with `foveal train --checkpoint`."
        )
