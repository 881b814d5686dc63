"""A classification run, from its configuration to its results."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from foveal.data.dataset import ImageDataset, LabelledImages
from foveal.data.digits import load_digits
from foveal.data.images import mode_of
from foveal.data.loader import TrainLoader, eval_loader, train_loader
from foveal.data.source import read_source
from foveal.data.stream import StreamedImages
from foveal.data.transforms import (
    eval_transform,
    resolve_preprocessing,
    train_transform,
)
from foveal.errors import FovealError
from foveal.models.checkpoint import load_checkpoint
from foveal.models.factory import create_model
from foveal.models.freezing import freeze
from foveal.recipes.config import ClassificationConfig, DataConfig, plain
from foveal.recipes.run import TrainingRun
from foveal.tasks.classification import Classification
from foveal.tasks.distillation import DistilledClassification, Teacher
from foveal.tools.trained import (
    ModelCard,
    TrainedModel,
    create_with_options,
    find_checkpoint,
    load_trained,
    model_by_name,
)
from foveal.train.processes import process_index_and_count


class ClassificationRun(TrainingRun[ClassificationConfig]):
    """A classification run; as `TrainingRun`.

    Raises:
        FovealError: unusable output, unknown model or option, or unusable data.
    """

    SAME = ("model", "options", "image_size", "data", "augmentation", "mixing")

    def prepare(self) -> None:
        """Data, network, preprocessing and task."""
        config = self.config
        # Decoding every image takes a while: a misspelt model is to be found before.
        require_options_fit(config)
        self.data = read_data(config.data, seed=config.train.seed)
        torch.manual_seed(config.train.seed)
        self.model, self.notes = self._create_model()
        self.preprocessing = resolve_preprocessing(
            getattr(self.model, "pretrained_cfg", {}),
            image_size=config.image_size,
            in_chans=getattr(self.model, "in_chans", 3),
            crop_pct=config.crop_pct,
        )
        self.held = freeze(self.model, config.frozen_stages, head_only=config.head_only)
        self.task = self._task()

    def loaders(self) -> tuple[TrainLoader, DataLoader[Any]]:
        """This process's batches to train on, and to judge by."""
        return self._train_loader(), self._eval_loader()

    def card(self) -> ModelCard:
        """What travels with the weights."""
        config = self.config
        path = config.data.path and str(Path(config.data.path).resolve())
        return ModelCard(
            model=config.model,
            options=plain(config.options),
            classes=self.data.classes,
            preprocessing=self.preprocessing,
            data={**plain(asdict(config.data)), "path": path, "seed": config.train.seed},
        )

    def _create_model(self) -> tuple[nn.Module, list[str]]:
        """The model, and what was done to make published weights fit it."""
        config = self.config
        resumes = self.goes_on
        model = create_model(
            config.model,
            pretrained=config.pretrained and not resumes,
            num_classes=len(self.data.classes),
            **config.model_options(),
        )
        if config.checkpoint is None or resumes:
            tuned = (config.recipe or "").startswith("finetune")
            if tuned and not (config.pretrained or resumes):
                return model, [
                    f"Starting from random weights, which the recipe {config.recipe!r} is not made "
                    "for: give --pretrained or --checkpoint."
                ]
            return model, []
        return model, [str(load_checkpoint(model, find_checkpoint(config.checkpoint)))]

    def _task(self) -> Classification:
        config = self.config
        names = self.data.train.names if isinstance(self.data, LabelledImages) else ()
        given = (len(self.data.classes), config.label_smoothing, names)
        taught = config.distillation
        if taught.teacher is None:
            return Classification(*given, config.mixing)
        teacher = load_teacher(taught.teacher, self.data.classes)
        theirs, ours = teacher.card.preprocessing, self.preprocessing
        normalisation = (theirs.mean, theirs.std, ours.mean, ours.std)
        return DistilledClassification(
            *given,
            config.mixing,
            teacher=Teacher(teacher.model, *normalisation),
            kind=taught.kind,
            weight=taught.weight,
            temperature=taught.temperature,
        )

    def _train_loader(self) -> TrainLoader:
        train = self.config.train
        transform = train_transform(self.preprocessing, self.config.augmentation)
        mode = mode_of(self.preprocessing.in_chans)
        dataset = self.data.train_dataset(transform, mode=mode, seed=train.seed)
        rank, world = process_index_and_count()
        return train_loader(
            dataset,
            batch_size=train.batch_size,
            workers=train.workers,
            seed=train.seed,
            rank=rank,
            world=world,
        )

    def _eval_loader(self) -> DataLoader[Any]:
        train = self.config.train
        mode = mode_of(self.preprocessing.in_chans)
        dataset = ImageDataset(self.data.val, eval_transform(self.preprocessing), mode=mode)
        rank, world = process_index_and_count()
        return eval_loader(
            dataset, batch_size=2 * train.batch_size, workers=train.workers, rank=rank, world=world
        )


def load_teacher(teacher: str, classes: Sequence[str]) -> TrainedModel:
    """The network behind `distillation.teacher`.

    Raises:
        FovealError: it cannot be had, or does not tell these classes apart.
    """
    is_file = Path(teacher).exists()
    found = load_trained(teacher) if is_file else model_by_name(teacher, pretrained=True)
    if len(found.card.classes) != len(classes):
        raise FovealError(
            f"The teacher {teacher} tells {len(found.card.classes)} classes apart and the data "
            f"have {len(classes)}; train a teacher on the same data first."
        )
    return found


def read_data(config: DataConfig, seed: int) -> LabelledImages | StreamedImages:
    """The images that a configuration speaks of.

    Raises:
        FovealError: they are missing, unreadable, or too few to learn from.
    """
    if config.source == "digits":
        return load_digits(held_out=config.held_out, seed=seed)
    if config.path is None:
        raise FovealError("There is nothing to train on; give --data PATH.")
    data = read_source(
        config.path,
        format=config.format,
        held_out=config.held_out,
        seed=seed,
        on_bad_image=config.on_bad_image,
        streaming=config.streaming,
    )
    if len(data.classes) < 2:
        raise FovealError(
            f"{config.path} has one class, {'/'.join(data.classes)!r}; training needs two or more."
        )
    if not len(data.val):
        raise FovealError(
            f"{config.path} has one image a class, which leaves none to judge by; add images."
        )
    return data


def require_options_fit(config: ClassificationConfig) -> None:
    """Raise if the network does not exist or does not take its options."""
    create_with_options(config.model, config.model_options(), device="meta")
