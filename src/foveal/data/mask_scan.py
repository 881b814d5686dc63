"""What one split of a mask folder holds, every file read once: good scenes, and what is wrong."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.data.images import EXTENSIONS, ImageError, is_on_its_side, verify_image
from foveal.data.problems import ProblemLog
from foveal.data.segmentation import LabelError, LabelledScenes, Scene, open_label
from foveal.data.sources import visible_files
from foveal.errors import FovealError

_MOST_SHOWN = 5


@dataclass(frozen=True)
class _Pair:
    """A picture and a label file of the same name."""

    name: str
    image: Path
    label: Path


class _Fault(Exception):
    """Why a pair cannot be used: the kind, and more words about it."""

    def __init__(self, kind: str, words: str = ""):
        super().__init__(kind)
        self.kind = kind
        self.words = words


@dataclass(frozen=True)
class _Good:
    """A pair that can be used, and how many pixels have each value."""

    scene: Scene
    counts: dict[int, int]


def scan_split(
    images: Path,
    labels: Path,
    classes: Sequence[str],
    ignore_index: int,
    advance: Callable[[], None] = lambda: None,
) -> LabelledScenes:
    """Every picture and label file under two folders, matched by path without the ending.

    Args:
        images: folder of pictures, at any depth.
        labels: folder of label files.
        classes: names, by class index.
        ignore_index: value of pixels that do not count.
        advance: called after each pair.

    Raises:
        FovealError: nothing there can be used.
    """
    log = ProblemLog(str(labels))
    pairs, num_images, num_labels = _pairs(images, labels, log)
    scenes: list[Scene] = []
    pixels, ignored = [0] * len(classes), 0
    with ThreadPoolExecutor(4) as pool:
        verdicts = pool.map(lambda pair: _inspect(pair, len(classes), ignore_index), pairs)
        for pair, verdict in zip(pairs, verdicts, strict=True):
            advance()
            if isinstance(verdict, _Fault):
                log.add(verdict.kind, f"{pair.name}{verdict.words}")
                continue
            scenes.append(verdict.scene)
            for value, count in verdict.counts.items():
                if value == ignore_index:
                    ignored += count
                else:
                    pixels[value] += count
    problems = log.report((num_images, len(scenes)), (num_labels, len(scenes)))
    if not scenes:
        why = f": {problems}" if problems else ""
        raise FovealError(
            f"{images} has no picture with labels in {labels} that can be used{why}; put a PNG of "
            "class indices there for each picture, of its name and size."
        )
    return LabelledScenes(
        tuple(classes), ignore_index, tuple(scenes), tuple(pixels), ignored, problems
    )


def count_pairs(images: Path, labels: Path) -> int:
    """Number of pictures that have labels; nothing is read."""
    return len(_pairs(images, labels, ProblemLog(""))[0])


def _pairs(images: Path, labels: Path, log: ProblemLog) -> tuple[list[_Pair], int, int]:
    """Pictures with their labels, by name; how many pictures there are, how many label files."""
    pictures, masks = _by_name(images), _by_name(labels)
    for files in (*pictures.values(), *masks.values()):
        if len(files) > 1:
            log.add("several files of one name", " and ".join(file.name for file in files))
    for name in sorted(pictures.keys() ^ masks.keys()):
        kind = "picture without labels" if name in pictures else "labels without a picture"
        log.add(kind, name)
    pairs = [
        _Pair(name, pictures[name][0], masks[name][0])
        for name in sorted(pictures.keys() & masks.keys())
        # Which of several belong together cannot be told.
        if len(pictures[name]) == len(masks[name]) == 1
    ]
    num_images, num_labels = (sum(map(len, files.values())) for files in (pictures, masks))
    return pairs, num_images, num_labels


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """The image files under `folder`, by path inside it without the ending."""
    found: dict[str, list[Path]] = {}
    for path in visible_files(folder):
        if path.suffix.lower() in EXTENSIONS:
            found.setdefault(str(path.relative_to(folder).with_suffix("")), []).append(path)
    return found


def _inspect(pair: _Pair, num_classes: int, ignore_index: int) -> _Good | _Fault:
    """Decode both files of a pair and look at every label."""
    try:
        label, upright = _decoded(pair)
        counts = _counts(label)
        _require_known(counts, num_classes, ignore_index)
    except _Fault as fault:
        return fault
    return _Good(Scene(pair.image, pair.label, upright), counts)


def _decoded(pair: _Pair) -> tuple[Image.Image, bool]:
    """The labels, and whether they are of the picture turned upright."""
    bad = verify_image(pair.image)
    if bad is not None:
        raise _Fault("unreadable picture", f" ({bad.reason})")
    try:
        label = open_label(pair.label)
    except LabelError as error:
        raise _Fault(error.reason) from error
    except ImageError as error:
        raise _Fault("unreadable label", f" ({error.reason})") from error
    stored, upright = _sizes(pair.image)
    if label.size not in (stored, upright):
        raise _Fault("label of another size", f" ({_shown(label.size)}, not {_shown(upright)})")
    return label, label.size == upright


def _require_known(counts: dict[int, int], num_classes: int, ignore_index: int) -> None:
    unknown = [value for value in counts if value != ignore_index and not 0 <= value < num_classes]
    if unknown:
        more = ", …" if len(unknown) > _MOST_SHOWN else ""
        raise _Fault(
            "unknown class index", f" ({', '.join(map(str, unknown[:_MOST_SHOWN]))}{more})"
        )
    if set(counts) == {ignore_index}:
        raise _Fault("nothing labelled")


def _sizes(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height as stored, and turned as the camera's note in the file says."""
    with Image.open(path) as image:
        stored = image.size
        return stored, (stored[1], stored[0]) if is_on_its_side(image) else stored


def _counts(label: Image.Image) -> dict[int, int]:
    """How many pixels have each value."""
    if label.mode in ("L", "P"):
        return {value: count for value, count in enumerate(label.histogram()) if count}
    values, counts = np.unique(np.asarray(label), return_counts=True)
    return dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True))


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
