"""A model together with what is needed to use it: classes, preprocessing, where it comes from."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from foveal.data.transforms import Preprocessing, resolve_preprocessing
from foveal.errors import CheckpointError, FovealError, OptionError, first_line
from foveal.models.checkpoint import load_checkpoint
from foveal.models.factory import create_model
from foveal.tools.quantize.weights import in_float
from foveal.train.checkpoint import read_metadata
from foveal.train.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What travels with the weights.

    Attributes:
        model: name of the network.
        options: that it was made with.
        classes: names by index; empty for a network without classifier.
        preprocessing: from an image to its input.
        data: what it was trained on, plain values.
        metrics: figures at the time of writing.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "model": self.model,
            "options": dict(self.options),
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
            "data": dict(self.data),
            "metrics": dict(self.metrics),
        }

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any]) -> "ModelCard":
        """The inverse of `to_metadata`; entries of no interest here are passed over."""
        return cls(
            model=values["model"],
            options=values["options"],
            classes=tuple(values["classes"]),
            preprocessing=Preprocessing.from_dict(values["preprocessing"]),
            data=values.get("data", {}),
            metrics=values.get("metrics", {}),
        )

    def build(self) -> nn.Module:
        """The network, randomly initialised."""
        return create_model(
            self.model,
            num_classes=len(self.classes),
            in_chans=self.preprocessing.in_chans,
            **self.options,
        )


@dataclass(frozen=True)
class TrainedModel:
    """A model ready to be used.

    Attributes:
        model: in eval mode.
        card: what it is.
        source: the file its weights come from, or a description.
        is_trained: whether it has any weights but random ones.
    """

    model: nn.Module
    card: ModelCard
    source: str
    is_trained: bool = True


def load_trained(path: str | os.PathLike[str]) -> TrainedModel:
    """The model in a run's folder (its best checkpoint, else its last) or in a file.

    Raises:
        CheckpointError: there is none, it is damaged, or it does not say which model it is.
    """
    file = find_checkpoint(path)
    card = read_card(file)
    if card is None:
        raise CheckpointError(
            f"{file} does not say which model it holds; name it with --model, "
            "or convert the file with `foveal convert`."
        )
    model = card.build()
    try:
        model.load_state_dict(in_float(load_file(file)))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(
            f"The weights in {file} are not those of {card.model}: {first_line(error)}"
        ) from error
    return TrainedModel(model.eval(), card, str(file))


def model_by_name(
    name: str,
    *,
    pretrained: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    image_size: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> TrainedModel:
    """A model by name: with published weights, with those of a file, or untrained.

    Raises:
        FovealError: unknown name or option, or weights that cannot be had or do not fit.
    """
    options = dict(options or {})
    model = create_with_options(name, options, pretrained=pretrained)
    source = f"the published weights of {name}" if pretrained else "nothing: it is untrained"
    if checkpoint is not None:
        file = find_checkpoint(checkpoint)
        source = str(load_checkpoint(model, file))
    card = card_of(model, name, options, image_size=image_size)
    return TrainedModel(model.eval(), card, source, pretrained or checkpoint is not None)


def create_with_options(name: str, options: Mapping[str, Any], **given: Any) -> nn.Module:
    """A network with a person's options; those of the wrong kind are a sentence.

    Args:
        name: as for `foveal.create_model`.
        options: what the person gave.
        **given: what else the network is made with.

    Raises:
        OptionError: an option does not exist, or has a kind of value that it cannot have.
    """
    try:
        return create_model(name, **given, **options)
    except FovealError:
        raise
    except (TypeError, AttributeError, ValueError) as error:
        if not options:
            raise
        raise OptionError(
            f"{name} cannot be made with the options {dict(options)} ({error}); "
            "give each the kind of value it has by default, such as depths=[2,2,6,2]."
        ) from error


def find_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The file that a folder or file name stands for.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(
            f"There is no checkpoint {path}; give a file, or the --output folder of a training run."
        )
    found = RunFolder(path).checkpoint()
    if found is None:
        raise CheckpointError(
            f"The folder {path} has neither best.safetensors nor last.safetensors; "
            "give the --output folder of a training run that finished an epoch."
        )
    return found


def read_card(file: Path) -> ModelCard | None:
    """The card in a checkpoint; None for one from elsewhere."""
    if file.suffix != ".safetensors":
        return None
    metadata = read_metadata(file)
    if "task" in metadata:
        raise CheckpointError(
            f"{file} holds no classifier but a network for {metadata['task']}; foveal eval and "
            f"predict take it with --task {metadata['task']}, other commands take classifiers."
        )
    try:
        return ModelCard.from_metadata(metadata) if "model" in metadata else None
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"What {file} says of its model is incomplete ({error}); it was written by another "
            "version: name the model with --model."
        ) from error


def card_of(
    model: nn.Module, name: str, options: Mapping[str, Any], *, image_size: int | None = None
) -> ModelCard:
    """The card of a model that was made by name."""
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    return ModelCard(
        model=name,
        options=options,
        classes=default_classes(getattr(model, "num_classes", 0)),
        preprocessing=resolve_preprocessing(
            cfg, image_size=image_size, in_chans=getattr(model, "in_chans", 3)
        ),
    )


def default_classes(num_classes: int) -> tuple[str, ...]:
    """ImageNet's names where the count is one of its sets', otherwise numbers."""
    subset = infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return tuple(f"class {index}" for index in range(num_classes))
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(num_classes))


def available_device(name: str | None = None) -> torch.device:
    """The named device, or the fastest there is.

    Raises:
        OptionError: there is no such device.
    """
    if name is not None:
        try:
            # Where there is no such device, a tensor on it says so.
            return torch.empty(0, device=name).device
        except (RuntimeError, AssertionError) as error:
            raise OptionError(
                f"There is no device {name!r} here; leave --device out for the fastest there is, "
                "or give cpu, cuda, cuda:1 or mps, as the machine has them."
            ) from error
    found = torch.accelerator.current_accelerator(check_available=True)
    return found or torch.device("cpu")
