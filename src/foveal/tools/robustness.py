"""How a model's errors grow under ImageNet-C's corruptions."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from foveal.data.dataset import ImageDataset, Samples
from foveal.data.images import mode_of
from foveal.data.transforms import eval_transform
from foveal.errors import FovealError
from foveal.tasks.classification import ClassificationMeter
from foveal.tools.corruptions import (
    ALEXNET_ERRORS,
    CORRUPTIONS,
    SEVERITIES,
    STANDARD,
    CorruptedInput,
    library_version,
)
from foveal.tools.evaluate import DEFAULT_SETTINGS, EvaluationImages, EvaluationSettings, judge
from foveal.tools.labels import is_imagenet
from foveal.tools.trained import TrainedModel

# The images as they are, under the network's usual preprocessing, in the place of a corruption.
CLEAN = "clean"


@dataclass(frozen=True)
class Cell:
    """One corruption at one severity: how many images were judged, how many wrongly."""

    corruption: str
    severity: int
    num_images: int
    num_wrong: int

    @property
    def error(self) -> float:
        """In per cent."""
        return 100 * self.num_wrong / self.num_images


@dataclass(frozen=True)
class CorruptionResult:
    """One corruption.

    Attributes:
        name: of the corruption.
        errors: by severity, in per cent.
    """

    name: str
    errors: Mapping[int, float]

    @property
    def mean_error(self) -> float:
        """Over the severities, in per cent."""
        return mean(self.errors.values())

    @property
    def is_complete(self) -> bool:
        """Whether all five severities are there."""
        return set(self.errors) == set(SEVERITIES)

    @property
    def corruption_error(self) -> float | None:
        """Relative to AlexNet's on ImageNet, in per cent; None if incomplete or not standard."""
        if not self.is_complete or self.name not in ALEXNET_ERRORS:
            return None
        return 100 * self.mean_error / ALEXNET_ERRORS[self.name]


@dataclass(frozen=True)
class Robustness:
    """Errors under corruptions, as far as they are known.

    Attributes:
        subject: what was judged, in plain values: the model, its weights, the images, the makers
            of the corruptions. Cells of equal subjects can be put together.
        on_imagenet: whether the classes are ImageNet's, on which AlexNet's errors were taken.
        cells: one a corruption and severity, in the order of the table.
    """

    subject: Mapping[str, Any]
    on_imagenet: bool
    cells: tuple[Cell, ...] = ()

    @property
    def clean_error(self) -> float | None:
        """Error on the images as they are, in per cent."""
        return next((cell.error for cell in self.cells if cell.corruption == CLEAN), None)

    def results(self, *, standard: bool) -> tuple[CorruptionResult, ...]:
        """The corruptions that have cells, either the 15 standard ones or the 4 others."""
        found = []
        for name in CORRUPTIONS:
            errors = {cell.severity: cell.error for cell in self.cells if cell.corruption == name}
            if errors and (name in STANDARD) == standard:
                found.append(CorruptionResult(name, errors))
        return tuple(found)

    @property
    def mean_error(self) -> float | None:
        """Mean over the standard corruptions, as far as they are done, in per cent."""
        results = self.results(standard=True)
        return mean(result.mean_error for result in results) if results else None

    @property
    def mce(self) -> float | None:
        """Mean corruption error relative to AlexNet's, in per cent.

        None off ImageNet, and before all five severities of all 15 standard corruptions are done.
        """
        errors = [result.corruption_error for result in self.results(standard=True)]
        known = [error for error in errors if error is not None]
        complete = self.on_imagenet and len(known) == len(STANDARD)
        return mean(known) if complete else None

    def verdict(self) -> str:
        """The result in a sentence."""
        if self.mce is not None:
            return (
                f"mCE {self.mce:.2f} %: the mean of the 15 standard corruptions' errors, each "
                "relative to AlexNet's (Hendrycks and Dietterich 2019)."
            )
        if self.mean_error is None:
            return "No standard corruption is done, so there is no mean."
        results = self.results(standard=True)
        whole = len(results) == len(STANDARD) and all(result.is_complete for result in results)
        over = "the" if whole else f"what is done of {len(results)} of the"
        words = f"Mean error {self.mean_error:.2f} % over {over} 15 standard corruptions"
        if self.on_imagenet:
            return f"{words}; mCE needs all of them at all five severities."
        return f"{words}; not relative to AlexNet's errors, which are of ImageNet's 1000 classes."


def subject_of(trained: TrainedModel, images: EvaluationImages) -> dict[str, Any]:
    """What `Robustness.subject` holds of a model and images."""
    return {
        "model": trained.card.model,
        "weights": _weights_digest(trained.model),
        "images": _images_digest(images.samples),
        "num_images": len(images.samples),
        "image_size": trained.card.preprocessing.image_size,
        "imagecorruptions-imaug": library_version(),
    }


def evaluate_robustness(
    trained: TrainedModel,
    images: EvaluationImages,
    corruptions: Sequence[str] = CORRUPTIONS,
    severities: Sequence[int] = SEVERITIES,
    *,
    settings: EvaluationSettings = DEFAULT_SETTINGS,
    before: Robustness | None = None,
) -> Iterator[Robustness]:
    """Judge a model under corruptions, which depend on an image's number, name and severity alone.

    Args:
        trained: the model.
        images: to judge by.
        corruptions: some of `CORRUPTIONS`.
        severities: some of 1 to 5.
        settings: how the images go through the model; `on_batch` counts all that is left to do.
        before: what is known already and need not be done again.

    Yields:
        What is known so far: at once what there was before, then with each cell that is done.

    Raises:
        FovealError: an unknown severity, or what there was before is of something else.
    """
    strange = sorted(set(severities) - set(SEVERITIES))
    if strange or not severities:
        raise FovealError(f"Severities are 1 to 5, got {strange[0] if strange else 'none'}.")
    known = Robustness(subject_of(trained, images), is_imagenet(trained.card))
    if before is not None:
        require_same_subject(before.subject, known.subject)
        known = replace(known, cells=before.cells)
    yield known
    have = {(cell.corruption, cell.severity) for cell in known.cells}
    wanted = [(CLEAN, 0), *((name, s) for name in corruptions for s in sorted(set(severities)))]
    left = [cell for cell in wanted if cell not in have]
    for number, (name, severity) in enumerate(left):
        counted = _counted(settings, number, len(left))
        cell = _judge_cell(trained, images, name, severity, counted)
        known = replace(known, cells=_in_order([*known.cells, cell]))
        yield known


def require_same_subject(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise if cells of one subject must not stand beside those of another."""
    for key, value in now.items():
        if before.get(key) != value:
            raise FovealError(
                f"The finished cells are of other {key} ({before.get(key)!r}, now {value!r}); go "
                "on with the same, write to another file, or begin again with --overwrite."
            )


def robustness_from_plain(content: Any) -> Robustness:
    """The inverse of `plain_robustness`.

    Raises:
        FovealError: the values are something else.
    """
    try:
        cells = tuple(Cell(**cell) for cell in content["cells"])
        known = [cell.corruption in (*CORRUPTIONS, CLEAN) for cell in cells]
        if not all(known):
            raise KeyError("corruption")
        return Robustness(dict(content["subject"]), bool(content["on_imagenet"]), cells)
    except (KeyError, TypeError, ValueError) as error:
        raise FovealError(
            "What is in the file is no result of foveal robustness; write to another one, "
            "or begin again with --overwrite."
        ) from error


def plain_robustness(robustness: Robustness) -> dict[str, Any]:
    """Everything as plain values: the cells, and what follows from them."""
    results = [(r, kind) for kind in (True, False) for r in robustness.results(standard=kind)]
    return {
        "subject": dict(robustness.subject),
        "on_imagenet": robustness.on_imagenet,
        "clean_error": robustness.clean_error,
        "mean_error": robustness.mean_error,
        "mce": robustness.mce,
        "verdict": robustness.verdict(),
        "corruptions": [
            {
                "name": result.name,
                "standard": standard,
                "errors": {str(severity): error for severity, error in result.errors.items()},
                "mean_error": result.mean_error,
                "corruption_error": result.corruption_error if robustness.on_imagenet else None,
            }
            for result, standard in results
        ],
        "cells": [asdict(cell) for cell in robustness.cells],
    }


def _judge_cell(
    trained: TrainedModel,
    images: EvaluationImages,
    name: str,
    severity: int,
    settings: EvaluationSettings,
) -> Cell:
    preprocessing = trained.card.preprocessing
    mode = mode_of(preprocessing.in_chans)
    if name == CLEAN:
        dataset = ImageDataset(images.samples, eval_transform(preprocessing), mode=mode)
    else:
        transform = CorruptedInput(name, severity, preprocessing)
        number = CORRUPTIONS.index(name)
        # The data set seeds every image by number, corruption (as seed) and severity (as epoch).
        dataset = ImageDataset(images.samples, transform, seed=number)
        dataset.set_epoch(severity)
        # Once here, so that processes that load images are born with it compiled.
        dataset[0]
    meter = ClassificationMeter(len(images.labelling.names))
    judge(trained.model, dataset, images.labelling, meter, settings)
    right, total = int(meter.confusion.diagonal().sum()), int(meter.confusion.sum())
    return Cell(name, severity, total, total - right)


def _in_order(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    order = {name: number for number, name in enumerate((CLEAN, *CORRUPTIONS))}
    return tuple(sorted(cells, key=lambda cell: (order[cell.corruption], cell.severity)))


def _counted(settings: EvaluationSettings, number: int, of: int) -> EvaluationSettings:
    """The settings, with the callback told of all cells' images instead of one's."""
    tell = settings.on_batch
    if tell is None:
        return settings
    return replace(settings, on_batch=lambda done, total: tell(number * total + done, of * total))


def _weights_digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        # At least one dimension, which a view of bytes needs.
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _images_digest(samples: Samples) -> str:
    """Of file names and labels: the same images may lie in another place."""
    pairs = zip(samples.names, samples.labels, strict=True)
    lines = (f"{Path(name).name}\t{label}" for name, label in pairs)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
