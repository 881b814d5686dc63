"""Published collections of scenes, laid out anew as mask folders."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.data.mask_folder import write_classes
from foveal.data.screening import enumerate_some
from foveal.data.segmentation import read_label
from foveal.errors import FovealError

OnDone = Callable[[int, int], None]


@dataclass(frozen=True)
class ScenePair:
    """A picture, the file of its labels, and the name that both get, without an ending."""

    image: Path
    label: Path
    name: str


def write_mask_folder(
    output: str | Path,
    classes: Sequence[str],
    splits: Mapping[str, Sequence[ScenePair]],
    new_index: Mapping[int, int],
    on_done: OnDone | None = None,
) -> dict[str, int]:
    """Write a mask folder, whole or not at all; pictures are linked where the disk allows it.

    Args:
        output: the folder, which must not exist or be empty.
        classes: names, by new class index, at most 255.
        splits: what goes into which.
        new_index: class index by the value in the label files; 255 for what does not count.
        on_done: called with how many of how many scenes are written.

    Returns:
        Number of scenes in each split.

    Raises:
        FovealError: the folder is there already or cannot be written, a label file cannot be read,
            or it holds a value that is not in `new_index`.
    """
    total = sum(map(len, splits.values()))
    table = _table(new_index)
    with _new_folder(Path(output)) as root:
        write_classes(root, classes)
        done = 0
        for split, pairs in splits.items():
            images, labels = root / "images" / split, root / "labels" / split
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            with ThreadPoolExecutor(4) as pool:
                write = partial(_convert, images=images, labels=labels, table=table)
                for _ in pool.map(write, pairs):
                    done += 1
                    if on_done is not None:
                        on_done(done, total)
    return {split: len(pairs) for split, pairs in splits.items()}


def scene_pairs(
    pictures: tuple[Path, str], annotations: tuple[Path, str], given: str
) -> list[ScenePair]:
    """The pictures of a split and their labels, by name.

    Args:
        pictures: folder, and what the files' paths in it end with: "*.jpg", or "*/*_image.png" for
            a folder of folders. A name is what stands before that.
        annotations: the same of the label files.
        given: what a person has to give, in words for an error.

    Raises:
        FovealError: a folder is missing, or a file's partner.
    """
    for folder, _ in (pictures, annotations):
        if not folder.is_dir():
            raise FovealError(f"{folder} is no folder; give {given}.")
    images, labels = _by_name(*pictures), _by_name(*annotations)
    _require_partners(images, labels, pictures[0])
    return [ScenePair(images[name], labels[name], name) for name in sorted(images)]


def _by_name(folder: Path, pattern: str) -> dict[str, Path]:
    end = pattern.rpartition("*")[2]
    return {path.name.removesuffix(end): path for path in folder.glob(pattern)}


def _require_partners(images: Mapping[str, Path], labels: Mapping[str, Path], where: Path) -> None:
    """Raise if some pictures have no labels, or some labels no picture, by name.

    Raises:
        FovealError: the first few are named; or there are none at all.
    """
    if not images:
        raise FovealError(f"{where} holds no pictures; unpack the whole collection.")
    for there, others, what in ((images, labels, "labels"), (labels, images, "picture")):
        alone = sorted(there.keys() - others.keys())
        if alone:
            raise FovealError(
                f"{len(alone)} of {len(there)} files in {where} have no {what}: "
                f"{enumerate_some(alone)}; unpack the whole collection."
            )


def _table(new_index: Mapping[int, int]) -> np.ndarray:
    """New index by old value; -1 for values that may not occur, such as the last, of all others."""
    table = np.full(257, -1, np.int16)
    for old, new in new_index.items():
        table[old] = new
    return table


def _convert(pair: ScenePair, images: Path, labels: Path, table: np.ndarray) -> None:
    old = read_label(pair.label)
    new = table[old.clip(-1, 256) if old.dtype != np.uint8 else old]
    if new.min() < 0:
        unknown = [str(value) for value in np.unique(old[new < 0]).tolist()]
        raise FovealError(
            f"{pair.label} holds {enumerate_some(unknown)}, which the collection does not have as "
            "labels; give the label files as they were published."
        )
    Image.fromarray(new.astype(np.uint8)).save(labels / f"{pair.name}.png")
    _link(pair.image, images / f"{pair.name}{pair.image.suffix.lower()}")


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or, on another disk, a copy."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """A temporary folder beside `output` that takes its name once the block ends without an error.

    Raises:
        FovealError: it is there already, or cannot be made or written to, or the disk is full.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FovealError(f"{output} exists already; choose another folder, or remove it first.")
    temporary: Path | None = None
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
        # mkdtemp makes a folder private to its owner; one inside is as open as any other.
        made = temporary / "made"
        made.mkdir()
        yield made
        made.replace(output)
    except OSError as error:
        raise FovealError(
            f"Cannot write {output}: {error.strerror or error}; choose a folder that can be "
            "written to."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
