"""How well a model does on a folder of labelled images, and what it costs."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.data.dataset import ImageDataset, Samples
from foveal.data.folder import OnBadImage, is_split, list_images
from foveal.data.images import BadImage, mode_of
from foveal.data.loader import eval_loader
from foveal.data.screening import enumerate_some
from foveal.data.source import find_format, read_source
from foveal.data.split import stratified_split
from foveal.data.transforms import eval_transform
from foveal.errors import FovealError
from foveal.tasks.classification import ClassificationMeter, ClassificationResult
from foveal.tools.cost import Cost, CostMeter
from foveal.tools.labels import DatasetName, Labelling, labelling_of, require_classifier
from foveal.tools.trained import TrainedModel

Split = Literal["auto", "train", "val", "all"]

# Told how many of how many images are done.
OnBatch = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How images go through a model.

    Attributes:
        batch_size: images at a time.
        workers: processes that load images.
        flip: judge by the mean of the logits of an image and of its mirror image.
        on_batch: called after every batch.
    """

    batch_size: int = 32
    workers: int = 0
    flip: bool = False
    on_batch: OnBatch | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise FovealError(
                "The batch size is 1 or more and the number of workers 0 or more, got "
                f"{self.batch_size} and {self.workers}."
            )


DEFAULT_SETTINGS = EvaluationSettings()


@dataclass(frozen=True)
class EvaluationImages:
    """What a model is judged by.

    Attributes:
        samples: images and labels.
        labelling: what the labels mean.
        words: which images they are.
        skipped: images that could not be read and were left out.
    """

    samples: Samples
    labelling: Labelling
    words: str
    skipped: tuple[BadImage, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """The figures, and what they were taken on.

    Attributes:
        result: the figures.
        cost: speed and memory of the model meanwhile.
        image_size: side of the input in pixels.
        images: which images were judged, in words.
        skipped: images that could not be read and were left out.
    """

    result: ClassificationResult
    cost: Cost
    image_size: int
    images: str
    skipped: tuple[BadImage, ...] = ()


def evaluate_folder(
    trained: TrainedModel,
    root: str | os.PathLike[str],
    *,
    dataset: DatasetName = "folder",
    split: Split = "auto",
    on_bad_image: OnBadImage = "refuse",
    settings: EvaluationSettings = DEFAULT_SETTINGS,
) -> Evaluation:
    """Judge a model by the images of a folder.

    Args:
        trained: the model; its classes are matched by name, ImageNet's by WordNet number too.
        root: FOLDER/CLASS/image or FOLDER/{train,val}/CLASS/image, or else what
            `foveal.data.source.read_source` reads.
        dataset: "folder", or the variant of ImageNet that the folder holds.
        split: "val", "train" or "all" of it. "auto" takes `val`, or the share that was held out
            if the model was trained on this very folder, or else all.
        on_bad_image: "refuse" unreadable images, or "skip" them.
        settings: how the images go through the model.

    Raises:
        FovealError: the folder cannot be used, or has classes that the model does not know.
    """
    images = find_images(trained, root, dataset=dataset, split=split, on_bad_image=on_bad_image)
    return evaluate_images(trained, images, settings)


def find_images(
    trained: TrainedModel,
    root: str | os.PathLike[str],
    *,
    dataset: DatasetName = "folder",
    split: Split = "auto",
    on_bad_image: OnBadImage = "refuse",
) -> EvaluationImages:
    """The images that `evaluate_folder` judges by; arguments and errors as there."""
    root = Path(root)
    if dataset == "folder" and find_format(root) != "folder":
        return _find_in_files(trained, root, split, on_bad_image)
    labelling = labelling_of(trained, root, dataset)
    found, skipped, words = _choose(trained, root, labelling.folders, split, on_bad_image)
    samples = labelling.judged(found)
    if len(samples) < len(found):
        words += f", less {len(found) - len(samples)} for which no label is right"
    if not len(samples):
        raise FovealError(f"{root} leaves no image to judge by ({words}); add some.")
    return EvaluationImages(samples, labelling, words, tuple(skipped))


def _find_in_files(
    trained: TrainedModel, root: Path, split: Split, on_bad_image: OnBadImage
) -> EvaluationImages:
    """The images of a manifest, parquet, Arrow or tar files, by the names of their classes."""
    require_classifier(trained)
    data, known = trained.card.data, trained.card.classes
    share, seed = data.get("held_out", 0.1), data.get("seed", 0)
    found = read_source(root, held_out=share, seed=seed, on_bad_image=on_bad_image)
    for name in found.classes:
        if name not in known:
            raise FovealError(
                f"{root} has a class {name!r} that the model does not know; it knows "
                f"{enumerate_some(known)}."
            )
    if split == "auto":
        trained_here = data.get("path") == str(root.resolve())
        split = "val" if found.named_val or trained_here else "all"
    samples = {
        "train": found.train,
        "val": found.val,
        "all": found.train if not len(found.val) else found.train.join(found.val),
    }[split]
    labels = [known.index(found.classes[label]) for label in samples.labels]
    words = {"all": "all images", "val": "the images to judge by", "train": "the training images"}
    return EvaluationImages(
        replace(samples, labels=labels),
        Labelling(folders=known, names=known),
        f"{words[split]} of {found.found}",
        found.skipped,
    )


def evaluate_images(
    trained: TrainedModel,
    images: EvaluationImages,
    settings: EvaluationSettings = DEFAULT_SETTINGS,
) -> Evaluation:
    """Judge a model by images that were found before, at the size its card says."""
    preprocessing = trained.card.preprocessing
    dataset = ImageDataset(
        images.samples, eval_transform(preprocessing), mode=mode_of(preprocessing.in_chans)
    )
    loader = eval_loader(dataset, batch_size=settings.batch_size, workers=settings.workers)
    meter = ClassificationMeter(len(images.labelling.names), calibration=True)
    costs = CostMeter(next(trained.model.parameters()).device)
    judge(trained.model, loader, images, meter, settings, costs)
    return Evaluation(
        meter.result(images.labelling.names),
        costs.cost(),
        preprocessing.image_size,
        images.words,
        images.skipped,
    )


def judge(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    images: EvaluationImages,
    meter: ClassificationMeter,
    settings: EvaluationSettings = DEFAULT_SETTINGS,
    costs: CostMeter | None = None,
) -> None:
    """Put batches of images through a model, which is put into eval mode.

    Args:
        model: the model.
        batches: images, labels and places in `images.samples`.
        images: what is judged by, whatever was done to the pixels.
        meter: takes in the logits of the labelling's classes.
        settings: whether to flip, and whom to tell; the rest is in the batches.
        costs: times the passes, some of them again where there are too few.
    """
    device = next(model.parameters()).device
    model.eval()
    first: Tensor | None = None
    done = 0
    with torch.inference_mode():
        for batch in batches:
            pixels = batch["image"].to(device)
            first = pixels if first is None else first
            forward = _forward(model, pixels, settings.flip)
            logits = forward() if costs is None else costs.time(forward, len(pixels))
            meter.update(_judged(logits, batch, images))
            done += len(pixels)
            if settings.on_batch is not None:
                settings.on_batch(done, len(images.samples))
        if first is not None and costs is not None:
            costs.top_up(_forward(model, first, settings.flip), len(first))


def _forward(model: nn.Module, images: Tensor, flip: bool) -> Callable[[], Tensor]:
    if not flip:
        return lambda: model(images)
    return lambda: (model(images) + model(images.flip(-1))) / 2


def _judged(
    logits: Tensor, batch: Mapping[str, Any], images: EvaluationImages
) -> tuple[Float[Tensor, "b labels"], Int[Tensor, " b"]]:
    """The logits of the labelling's classes, and the label to judge each image by."""
    logits, labels, labelling = logits.float().cpu(), batch["label"], images.labelling
    if labelling.outputs is not None:
        logits = logits[:, list(labelling.outputs)]
    if labelling.accepted is not None:
        # Of several right labels the one that the model finds likeliest: it is first, or among the
        # first five, if any of them is.
        indices: list[int] = batch["index"].tolist()
        for row, index in enumerate(indices):
            right = list(labelling.accepted[Path(images.samples.names[index]).name])
            labels[row] = right[int(logits[row, right].argmax())]
    return logits, labels


def _choose(
    trained: TrainedModel, root: Path, names: Sequence[str], split: Split, on_bad: OnBadImage
) -> tuple[Samples, list[BadImage], str]:
    """The samples to judge by, what was skipped, and both in words."""
    if is_split(root):
        parts = {"auto": ["val"], "all": ["train", "val"]}.get(split, [split])
        listings = [list_images(root / part, names, on_bad) for part in parts]
        samples = listings[0].samples
        for listing in listings[1:]:
            samples = samples.join(listing.samples)
        skipped = [bad for listing in listings for bad in listing.skipped]
        return samples, skipped, f"the images in {' and '.join(parts)}"
    listing = list_images(root, names, on_bad)
    data = trained.card.data
    trained_here = data.get("path") == str(root.resolve())
    if split == "all" or (split == "auto" and not trained_here):
        return listing.samples, listing.skipped, "all images of the folder"
    share, seed = data.get("held_out", 0.1), data.get("seed", 0)
    kept, held = stratified_split(listing.samples.labels, share, seed)
    chosen = listing.samples.take(kept if split == "train" else held)
    what = "trained on" if split == "train" else "held out"
    return chosen, listing.skipped, f"the share of the folder that is {what} with seed {seed}"
