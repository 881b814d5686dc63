"""Image folders: FOLDER/CLASS/image, or FOLDER/{train,val}/CLASS/image."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from foveal.data.dataset import LabelledImages, Samples
from foveal.data.images import EXTENSIONS, BadImage
from foveal.data.screening import OnBadImage, enumerate_some, screen
from foveal.data.sources import visible_files
from foveal.data.split import stratified_split
from foveal.errors import FovealError


@dataclass
class _Listing:
    """Images found under one folder of classes, and what was left out."""

    samples: Samples
    skipped: list[BadImage] = field(default_factory=list)
    ignored: int = 0


def read_folder(
    root: str | os.PathLike[str],
    *,
    held_out: float = 0.1,
    seed: int = 0,
    on_bad_image: OnBadImage = "refuse",
) -> LabelledImages:
    """The images of a folder, every one decoded once to know that it can be.

    Args:
        root: holds one folder a class, or `train` and `val` with one folder a class each.
        held_out: share of every class to judge by, where there is no `val`.
        seed: of that choice.
        on_bad_image: "refuse" to raise on unreadable images, "skip" to leave them out and list
            them in the result.

    Raises:
        FovealError: no such folder, no classes, a class with no images, or unreadable images.
    """
    root = Path(root)
    _require_folder(root)
    if is_split(root):
        classes = class_names(root / "train")
        train = list_images(root / "train", classes, on_bad_image)
        val = list_images(root / "val", classes, on_bad_image)
        skipped, ignored = [*train.skipped, *val.skipped], train.ignored + val.ignored
        return LabelledImages(classes, train.samples, val.samples, tuple(skipped), ignored)
    classes = class_names(root)
    found = list_images(root, classes, on_bad_image)
    kept, held = stratified_split(found.samples.labels, held_out, seed)
    train, val = found.samples.take(kept), found.samples.take(held)
    return LabelledImages(classes, train, val, tuple(found.skipped), found.ignored)


def is_split(root: Path) -> bool:
    """Whether a folder is divided into `train` and `val`."""
    return (root / "train").is_dir() and (root / "val").is_dir()


def class_names(root: Path) -> tuple[str, ...]:
    """The folders in `root`, sorted; hidden ones are passed over."""
    _require_folder(root)
    names = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise FovealError(
            f"{root} has no class folders: put the images of each class into a folder of its own, "
            f"{root / 'CLASS' / 'image.jpg'}."
        )
    return tuple(names)


def list_images(
    root: Path, classes: Sequence[str], on_bad_image: OnBadImage = "refuse"
) -> _Listing:
    """Every image under `root`/CLASS, class by class, sorted by path.

    Raises:
        FovealError: a folder that is no class, a class with no images, or unreadable images.
    """
    present = class_names(root)
    strangers = sorted(set(present) - set(classes))
    if strangers:
        raise FovealError(
            f"{root} has a class {strangers[0]!r} that is not among the known ones "
            f"({enumerate_some(list(classes))}); rename or remove that folder."
        )
    paths: list[Path] = []
    labels: list[int] = []
    ignored = 0
    for name in present:
        images, others = _image_files(root / name)
        _require_images(images, root / name)
        paths += images
        labels += [classes.index(name)] * len(images)
        ignored += others
    samples, bad = screen(Samples(paths, labels, [str(path) for path in paths]), on_bad_image)
    for name in present:
        if classes.index(name) not in samples.labels:
            raise FovealError(
                f"No image in {root / name} can be read (for one, "
                f"{next(b for b in bad if b.path.is_relative_to(root / name))}); "
                "add readable ones or remove the class."
            )
    return _Listing(samples, bad, ignored)


def _image_files(folder: Path) -> tuple[list[Path], int]:
    """Images under `folder` at any depth, and the number of other files that are not hidden."""
    images: list[Path] = []
    ignored = 0
    for path in visible_files(folder):
        if path.suffix.lower() in EXTENSIONS:
            images.append(path)
        else:
            ignored += 1
    return images, ignored


def _require_images(images: Sequence[Path], folder: Path) -> None:
    if not images:
        raise FovealError(
            f"The class folder {folder} has no images ({', '.join(sorted(EXTENSIONS))}); "
            "add some or remove it."
        )


def _require_folder(root: Path) -> None:
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "does not exist"
        raise FovealError(
            f"The data folder {root} {what}; give one with a folder of images for each class."
        )
