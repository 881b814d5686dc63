"""How well a model does on a folder of labelled images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from timm.data import ImageNetInfo, infer_imagenet_subset

from foveal.data.dataset import ImageDataset, Samples
from foveal.data.folder import OnBadImage, class_names, is_split, list_images
from foveal.data.images import BadImage, mode_of
from foveal.data.loader import eval_loader
from foveal.data.split import stratified_split
from foveal.data.transforms import eval_transform
from foveal.errors import FovealError
from foveal.tasks.classification import (
    ClassificationMeter,
    ClassificationResult,
    collect_logits,
)
from foveal.tools.trained import TrainedModel

Split = Literal["auto", "train", "val", "all"]


@dataclass(frozen=True)
class Evaluation:
    """The figures, and what they were taken on.

    Attributes:
        result: the figures.
        images: which images were judged, in words.
        skipped: images that could not be read and were left out.
    """

    result: ClassificationResult
    images: str
    skipped: tuple[BadImage, ...] = ()


def evaluate_folder(
    trained: TrainedModel,
    root: str | os.PathLike[str],
    *,
    split: Split = "auto",
    on_bad_image: OnBadImage = "refuse",
    batch_size: int = 32,
    workers: int = 0,
) -> Evaluation:
    """Judge a model by the images of a folder.

    Args:
        trained: the model; its classes are matched by name, ImageNet's by WordNet number too.
        root: FOLDER/CLASS/image or FOLDER/{train,val}/CLASS/image.
        split: "val", "train" or "all" of it. "auto" takes `val`, or the share that was held out
            if the model was trained on this very folder, or else all.
        on_bad_image: "refuse" unreadable images, or "skip" them.
        batch_size: images at a time.
        workers: processes that load images.

    Raises:
        FovealError: the folder cannot be used, or has classes that the model does not know.
    """
    root = Path(root)
    names = folder_classes(trained, root)
    samples, skipped, words = _choose(trained, root, names, split, on_bad_image)
    meter = evaluate_samples(trained, samples, batch_size, workers)
    return Evaluation(meter.result(trained.card.classes), words, tuple(skipped))


def evaluate_samples(
    trained: TrainedModel, samples: Samples, batch_size: int = 32, workers: int = 0
) -> ClassificationMeter:
    """A meter that has seen every sample."""
    preprocessing = trained.card.preprocessing
    dataset = ImageDataset(
        samples, eval_transform(preprocessing), mode=mode_of(preprocessing.in_chans)
    )
    meter = ClassificationMeter(len(trained.card.classes))
    meter.update(
        collect_logits(trained.model, eval_loader(dataset, batch_size=batch_size, workers=workers))
    )
    return meter


def folder_classes(trained: TrainedModel, root: Path) -> tuple[str, ...]:
    """The folder names that stand for the model's classes, by index."""
    known = trained.card.classes
    present = class_names(root / "train" if is_split(root) else root)
    if set(present) <= set(known):
        return known
    subset = infer_imagenet_subset({"num_classes": len(known)})
    if subset is not None:
        numbers = tuple(ImageNetInfo(subset).label_names())
        if set(present) <= set(numbers):
            return numbers
    stranger = next(name for name in present if name not in known)
    raise FovealError(
        f"{root} has a class {stranger!r} that the model does not know; it knows "
        f"{', '.join(known[:5])}{', …' if len(known) > 5 else ''}."
    )


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
