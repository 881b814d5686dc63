"""A trained detector or segmenter together with what is needed to use it."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foveal.data.joint_augmentation import DetectionAugmentation, SegmentationAugmentation
from foveal.data.joint_transforms import (
    JointTransform,
    detection_transforms,
    segmentation_transforms,
)
from foveal.errors import CheckpointError, first_line
from foveal.models.adapt import adapt
from foveal.models.pyramid import OnPyramid
from foveal.tasks.detection.contract import Detector
from foveal.tasks.detection.heads import create_detector
from foveal.tasks.segmentation.contract import Segmenter
from foveal.tasks.segmentation.heads import create_segmenter
from foveal.tools.trained import find_checkpoint
from foveal.train.checkpoint import read_metadata

Task = Literal["detection", "segmentation"]

Network = TypeVar("Network", Detector, Segmenter)


@dataclass(frozen=True, kw_only=True)
class DenseCard:
    """What travels with the weights.

    Attributes:
        task: what the network does.
        head: its name.
        model: name of the backbone.
        options: that the backbone was made with.
        head_options: that the head was made with.
        classes: names by index.
        mean: of the normalised image's channels, of intensities in [0, 1].
        std: likewise.
        eval_scale: shorter side in pixels that pictures are brought to; None for their own.
        eval_max_side: pixels of the longer side that are not exceeded; None for any.
        ignore_index: label of pixels that do not count.
        data: what it was trained on, plain values.
        metrics: figures at the time of writing.
    """

    task: Task
    head: str
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    head_options: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    eval_scale: int | None = None
    eval_max_side: int | None = None
    ignore_index: int = 255
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, Any]:
        """As plain values."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any]) -> "DenseCard":
        """The inverse of `to_metadata`; entries of no interest here are passed over."""
        given = {entry.name: values[entry.name] for entry in fields(cls) if entry.name in values}
        for name in ("classes", "mean", "std"):
            given[name] = tuple(given[name])
        return cls(**given)

    def build(self, **given: Any) -> Detector | Segmenter:
        """The network, randomly initialised but for what `given` says of the backbone's weights.

        Args:
            **given: `pretrained`, `checkpoint` and `drop_path_rate` of the backbone.
        """
        common = {"backbone_options": dict(self.options), **given, **self.head_options}
        if self.task == "detection":
            return create_detector(self.head, self.model, len(self.classes), **common)
        return create_segmenter(
            self.head, self.model, len(self.classes), ignore_index=self.ignore_index, **common
        )

    def transform(self) -> JointTransform:
        """From a picture to the network's image, as in judging."""
        if self.task == "detection":
            sizes = DetectionAugmentation(
                eval_scale=self.eval_scale, eval_max_side=self.eval_max_side
            )
            return detection_transforms(self.mean, self.std, sizes, train=False)
        own = SegmentationAugmentation()
        return segmentation_transforms(
            self.mean, self.std, own, train=False, ignore_index=self.ignore_index
        )


@dataclass(frozen=True)
class TrainedDense(Generic[Network]):
    """A detector or segmenter ready to be used.

    Attributes:
        model: in eval mode.
        card: what it is.
        source: the file its weights come from.
        changes: what was done to the weights to make them fit other options, in sentences.
    """

    model: Network
    card: DenseCard
    source: str
    changes: tuple[str, ...] = ()


def load_detector(
    path: str | os.PathLike[str], options: Mapping[str, Any] | None = None
) -> TrainedDense[Detector]:
    """The detector in a run's folder (its best checkpoint, else its last) or in a file.

    Args:
        path: of it.
        options: of the backbone, in place of those that it was trained with, such as
            `position_bias`; weights are adapted to others of `focal_windows` or `img_size`.

    Raises:
        CheckpointError: there is none, it is damaged, or it holds something else.
    """
    model, card, source, changes = _load(path, "detection", options)
    assert isinstance(model, Detector)
    return TrainedDense(model, card, source, changes)


def load_segmenter(
    path: str | os.PathLike[str], options: Mapping[str, Any] | None = None
) -> TrainedDense[Segmenter]:
    """The segmenter in a run's folder or in a file; arguments and errors of `load_detector`."""
    model, card, source, changes = _load(path, "segmentation", options)
    assert isinstance(model, Segmenter)
    return TrainedDense(model, card, source, changes)


def _load(
    path: str | os.PathLike[str], task: Task, options: Mapping[str, Any] | None
) -> tuple[Detector | Segmenter, DenseCard, str, tuple[str, ...]]:
    file = find_checkpoint(path)
    card = _read_card(file, task)
    card = replace(card, options={**card.options, **(options or {})})
    model = card.build()
    changes: tuple[str, ...] = ()
    try:
        weights = load_file(file)
        if options:
            weights, changes = _adapted(weights, model)
        model.load_state_dict(weights)
    except (OSError, RuntimeError, SafetensorError, CheckpointError) as error:
        raise CheckpointError(
            f"The weights in {file} are not those of {card.head} on {card.model}: "
            f"{first_line(error)}"
        ) from error
    return model.eval(), card, str(file), changes


def _adapted(
    weights: Mapping[str, Tensor], model: OnPyramid
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights with those of the backbone made to fit, and what that took."""
    prefix = model.backbone_prefix()
    inside = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    fitted = adapt(inside, model.pyramid().model)
    backbone = {prefix + key: value for key, value in fitted.state_dict.items()}
    return {**weights, **backbone}, tuple(fitted.sentences())


def _read_card(file: Path, task: Task) -> DenseCard:
    metadata = read_metadata(file) if file.suffix == ".safetensors" else {}
    held = metadata.get("task")
    if held != task:
        what = f"holds a network for {held}" if held else "is no detector's or segmenter's"
        hint = f"--task {held}" if held else "the --output folder of foveal train --task " + task
        raise CheckpointError(f"{file} {what}, and one for {task} is asked for; give {hint}.")
    try:
        return DenseCard.from_metadata(metadata)
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"What {file} says of its network is incomplete ({error}); it was written by another "
            "version of foveal."
        ) from error
