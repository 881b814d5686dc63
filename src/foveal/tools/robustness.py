"""How a model's errors grow under ImageNet-C's corruptions."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from math import ceil
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler

from foveal.data.dataset import ImageDataset, Sample, Samples
from foveal.data.images import mode_of
from foveal.data.loader import outlive_signals
from foveal.data.transforms import Preprocessing, eval_transform
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

# A corruption and a severity.
CellKey = tuple[str, int]


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
        over = "the 15" if whole else f"{len(results)} of the 15"
        words = f"Mean error {self.mean_error:.2f} % over {over} standard corruptions"
        if not whole:
            words += " at the severities that are done"
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
    batches = iter(_loader(trained, images, left, settings)) if left else iter(())
    for number, (name, severity) in enumerate(left):
        counted = _counted(settings, number, len(left))
        cell = _judge_cell(trained, images, (name, severity), batches, counted)
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


class _CellImages(Dataset[Sample]):
    """Every image in every cell, cell after cell."""

    def __init__(self, samples: Samples, cells: Sequence[CellKey], preprocessing: Preprocessing):
        self.num_images = len(samples)
        self.cells = [_cell_images(samples, cell, preprocessing) for cell in cells]

    def __len__(self) -> int:
        return self.num_images * len(self.cells)

    def __getitem__(self, index: int) -> Sample:
        cell, image = divmod(index, self.num_images)
        return self.cells[cell][image]


class _CellBatches(Sampler[list[int]]):
    """Every place in a data set of cells, in order; no batch spans two cells."""

    def __init__(self, dataset: _CellImages, batch_size: int):
        self.dataset = dataset
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        count = self.dataset.num_images
        for first in range(0, len(self.dataset), count):
            for start in range(first, first + count, self.batch_size):
                yield list(range(start, min(start + self.batch_size, first + count)))


def _cell_images(samples: Samples, cell: CellKey, preprocessing: Preprocessing) -> ImageDataset:
    name, severity = cell
    mode = mode_of(preprocessing.in_chans)
    if name == CLEAN:
        return ImageDataset(samples, eval_transform(preprocessing), mode=mode)
    transform = CorruptedInput(name, severity, preprocessing)
    # A data set seeds an image by seed, epoch and number: here by corruption, severity and number.
    dataset = ImageDataset(samples, transform, seed=CORRUPTIONS.index(name))
    dataset.set_epoch(severity)
    return dataset


def _loader(
    trained: TrainedModel,
    images: EvaluationImages,
    cells: Sequence[CellKey],
    settings: EvaluationSettings,
) -> DataLoader[Any]:
    """All batches of all cells, from one set of processes."""
    dataset = _CellImages(images.samples, cells, trained.card.preprocessing)
    if settings.workers:
        # Compiled code is inherited by the processes that load images.
        for cell, (name, _) in zip(dataset.cells, cells, strict=True):
            if name == "glass_blur":
                cell[0]
    return DataLoader(
        dataset,
        batch_sampler=_CellBatches(dataset, settings.batch_size),
        num_workers=settings.workers,
        worker_init_fn=outlive_signals,
    )


def _judge_cell(
    trained: TrainedModel,
    images: EvaluationImages,
    cell: CellKey,
    batches: Iterator[Any],
    settings: EvaluationSettings,
) -> Cell:
    """The cell whose batches come next."""
    meter = ClassificationMeter(len(images.labelling.names))
    number = ceil(len(images.samples) / settings.batch_size)
    judge(trained.model, islice(batches, number), images, meter, settings)
    return Cell(*cell, meter.num_images, meter.num_images - meter.num_right)


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
