"""A classification run: its configuration, and what carries it out."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import nn

from foveal.data.dataset import ImageDataset, LabelledImages
from foveal.data.digits import load_digits
from foveal.data.folder import OnBadImage, read_folder
from foveal.data.images import mode_of
from foveal.data.loader import eval_loader, train_loader
from foveal.data.transforms import (
    Augmentation,
    Preprocessing,
    eval_transform,
    resolve_preprocessing,
    train_transform,
)
from foveal.errors import FovealError
from foveal.models.checkpoint import load_checkpoint
from foveal.models.factory import create_model
from foveal.tasks.classification import Classification
from foveal.tools.trained import ModelCard, find_checkpoint
from foveal.train.config import TrainConfig
from foveal.train.loop import Trainer, TrainResult
from foveal.train.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on.

    Attributes:
        source: "folder" for image folders, "digits" for scikit-learn's scans.
        path: of the folder.
        held_out: share of every class to judge by, where the folder has no `val`.
        on_bad_image: "refuse" unreadable images, or "skip" them.
    """

    source: Literal["folder", "digits"] = "folder"
    path: str | None = None
    held_out: float = 0.1
    on_bad_image: OnBadImage = "refuse"


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig:
    """A classification run.

    Attributes:
        model: name of the network.
        options: of the network, beside the number of classes.
        pretrained: start from published weights.
        checkpoint: start from this file's weights.
        data: what to train on.
        image_size: side in pixels; None for the network's usual one.
        crop_pct: share of the resized side that is looked at; None for the network's usual one.
        augmentation: random changes to the training images.
        label_smoothing: share of the target spread over all classes.
        train: length and optimisation.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    checkpoint: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    image_size: int | None = None
    crop_pct: float | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    label_smoothing: float = 0.1
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for config.yaml."""
        return _plain(asdict(self))


class ClassificationRun:
    """A run whose output folder, data and model have been found good; `fit` does the work.

    Args:
        config: what to do.
        output: folder for the results.
        resume: go on from what the folder holds; afresh where it holds nothing.
        overwrite: replace an earlier run.

    Raises:
        FovealError: unusable output, unknown model or option, or unusable data.
    """

    def __init__(
        self,
        config: ClassificationConfig,
        output: str | os.PathLike[str],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ):
        self.config = config
        self.resume = resume
        self.overwrite = overwrite
        self.folder = RunFolder(output)
        self.folder.require_usable(resume=resume, overwrite=overwrite)
        if resume:
            require_same_run(self.folder, config)
        # Decoding every image takes a while: a misspelt model is to be found before.
        create_model(config.model, device="meta", **config.options)
        self.data = read_data(config.data, seed=config.train.seed)
        torch.manual_seed(config.train.seed)
        self.model, self.notes = self._create_model()
        self.preprocessing = resolve_preprocessing(
            getattr(self.model, "pretrained_cfg", {}),
            image_size=config.image_size,
            in_chans=getattr(self.model, "in_chans", 3),
            crop_pct=config.crop_pct,
        )

    def fit(self, *, show_progress: bool = True) -> TrainResult:
        """Train, writing checkpoints, figures and configuration into the folder."""
        if self.overwrite:
            self.folder.clear()
        self.folder.write_config(self.config.to_dict())
        trainer = Trainer(
            self.model,
            Classification(len(self.data.classes), self.config.label_smoothing),
            (self._train_loader(), self._eval_loader()),
            self.config.train,
            self.folder,
            metadata=self.card().to_metadata(),
            show_progress=show_progress,
        )
        return trainer.fit(resume=self.resume)

    def card(self) -> ModelCard:
        """What travels with the weights."""
        config = self.config
        path = config.data.path and str(Path(config.data.path).resolve())
        return ModelCard(
            model=config.model,
            options=_plain(dict(config.options)),
            classes=self.data.classes,
            preprocessing=self.preprocessing,
            data={**_plain(asdict(config.data)), "path": path, "seed": config.train.seed},
        )

    def _create_model(self) -> tuple[nn.Module, list[str]]:
        """The model, and what was done to make published weights fit it."""
        config = self.config
        resumes = self.resume and self.folder.latest_state() is not None
        model = create_model(
            config.model,
            pretrained=config.pretrained and not resumes,
            num_classes=len(self.data.classes),
            **config.options,
        )
        if config.checkpoint is None or resumes:
            return model, []
        return model, [str(load_checkpoint(model, find_checkpoint(config.checkpoint)))]

    def _train_loader(self) -> Any:
        train = self.config.train
        transform = train_transform(self.preprocessing, self.config.augmentation)
        dataset = ImageDataset(
            self.data.train, transform, mode=_mode(self.preprocessing), seed=train.seed
        )
        return train_loader(
            dataset, batch_size=train.batch_size, workers=train.workers, seed=train.seed
        )

    def _eval_loader(self) -> Any:
        train = self.config.train
        transform = eval_transform(self.preprocessing)
        dataset = ImageDataset(self.data.val, transform, mode=_mode(self.preprocessing))
        return eval_loader(dataset, batch_size=2 * train.batch_size, workers=train.workers)


def read_data(config: DataConfig, seed: int) -> LabelledImages:
    """The images that a configuration speaks of.

    Raises:
        FovealError: they are missing, unreadable, or too few to learn from.
    """
    if config.source == "digits":
        return load_digits(held_out=config.held_out, seed=seed)
    data = read_folder(
        config.path or "", held_out=config.held_out, seed=seed, on_bad_image=config.on_bad_image
    )
    if len(data.classes) < 2:
        raise FovealError(
            f"{config.path} has one class, {'/'.join(data.classes)!r}; training needs two or more, "
            "each in a folder of its own."
        )
    if not len(data.val):
        raise FovealError(
            f"{config.path} has one image a class, which leaves none to judge by; add images."
        )
    return data


def require_same_run(folder: RunFolder, config: ClassificationConfig) -> None:
    """Raise if a folder holds a run of something else than `config`."""
    if not folder.config.exists():
        return
    before = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    now = config.to_dict()
    for key in ("model", "options", "image_size", "data"):
        if before.get(key) != now[key]:
            raise FovealError(
                f"The run in {folder.root} has {key} {before.get(key)!r}, not {now[key]!r}; "
                "resume with the same, or replace the run with --overwrite."
            )


def _mode(preprocessing: Preprocessing) -> str:
    return mode_of(preprocessing.in_chans)


def _plain(value: Any) -> Any:
    """Tuples as lists, all the way down, as YAML and JSON give them back."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
