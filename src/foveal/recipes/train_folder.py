"""The run behind `foveal train`."""

from collections.abc import Mapping
from typing import Any

from foveal.data.folder import OnBadImage
from foveal.recipes.classification import ClassificationConfig, DataConfig
from foveal.train.config import TrainConfig


def train_folder(
    model: str,
    data: str,
    *,
    pretrained: bool = False,
    checkpoint: str | None = None,
    image_size: int | None = None,
    epochs: int = 30,
    max_steps: int | None = None,
    batch_size: int = 32,
    lr: float | None = None,
    seed: int = 0,
    workers: int = 2,
    on_bad_image: OnBadImage = "refuse",
    options: Mapping[str, Any] | None = None,
) -> ClassificationConfig:
    """A user's image folder, from random or given weights.

    Command: `foveal train --model NAME --data FOLDER --output DIR`. Time and score depend on the
    images; published weights (`--pretrained`) reach a score in far fewer epochs.

    Args:
        lr: peak learning rate; None for 1e-3 from random weights, 2e-4 from trained ones.
        (the others): as the attributes of the configurations returned.
    """
    starts_trained = pretrained or checkpoint is not None
    return ClassificationConfig(
        model=model,
        options=dict(options or {}),
        pretrained=pretrained,
        checkpoint=checkpoint,
        data=DataConfig(path=data, on_bad_image=on_bad_image),
        image_size=image_size,
        train=TrainConfig(
            epochs=epochs,
            max_steps=max_steps,
            batch_size=batch_size,
            lr=lr if lr is not None else (2e-4 if starts_trained else 1e-3),
            seed=seed,
            workers=workers,
        ),
    )
