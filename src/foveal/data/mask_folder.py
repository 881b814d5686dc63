"""Mask folders: pictures in images/SPLIT, a class index for each of their pixels in labels/SPLIT.

Beside them lies classes.json, such as {"classes": ["sky", "road"], "ignore_index": 255}: the names
by class index, and the value of pixels that do not count.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from foveal.data.mask_scan import count_pairs, scan_split
from foveal.data.problems import require_no_problems
from foveal.data.segmentation import LabelledScenes
from foveal.errors import FovealError
from foveal.files import write_text

SPLITS = ("train", "val", "test")
IGNORE_INDEX = 255
CLASS_FILE = "classes.json"
_EXAMPLE = '{"classes": ["sky", "road"], "ignore_index": 255}'


@dataclass(frozen=True)
class MaskFolder:
    """What a mask folder holds.

    Attributes:
        root: the folder.
        classes: names, by class index.
        ignore_index: label of pixels that do not count.
        splits: those that were read, by name.
    """

    root: Path
    classes: tuple[str, ...]
    ignore_index: int
    splits: Mapping[str, LabelledScenes]

    def split(self, name: str) -> LabelledScenes:
        """The scenes of one split.

        Raises:
            FovealError: it was not read.
        """
        if name not in self.splits:
            raise FovealError(
                f"{self.root} has the splits {', '.join(self.splits)}, not {name!r}; put its "
                f"pictures into {self.root / 'images' / name} and its labels into "
                f"{self.root / 'labels' / name}."
            )
        return self.splits[name]


def read_mask_folder(
    root: str | Path,
    *,
    splits: Sequence[str] | None = None,
    strict: bool = False,
    on_done: Callable[[int, int], None] | None = None,
) -> MaskFolder:
    """Read a mask folder, every picture and label decoded once to know that it can be used.

    Scenes that cannot be are left out; `problems` of each split counts and names them: a picture
    or its labels are missing, unreadable or of different sizes, labels are colours or hold values
    that classes.json does not know, or every pixel is ignored.

    Args:
        root: the folder.
        splits: of "train", "val" and "test", what to read; None for all that are there.
        strict: refuse a folder with problems.
        on_done: called with how many of how many scenes have been looked at.

    Raises:
        FovealError: it is no mask folder, a split is missing or has nothing that can be used, or
            there are problems and `strict`.
    """
    root = Path(root)
    classes, ignore_index = read_classes(root)
    folders = _split_folders(root, splits)
    advance = _counter(folders, on_done)
    found = {
        name: scan_split(images, labels, classes, ignore_index, advance)
        for name, (images, labels) in folders.items()
    }
    if strict:
        require_no_problems(*(split.problems for split in found.values()))
    return MaskFolder(root, classes, ignore_index, found)


def is_mask_folder(root: str | Path) -> bool:
    """Whether a folder is laid out as one, by its names alone."""
    root = Path(root)
    return (root / "images").is_dir() and (root / "labels").is_dir()


def read_classes(root: Path) -> tuple[tuple[str, ...], int]:
    """Names of the classes by index, and the ignored index, which is 255 if it is not given.

    Raises:
        FovealError: classes.json is missing, or says something else.
    """
    path = root / CLASS_FILE
    content = _load(path)
    classes = content.get("classes")
    if not isinstance(classes, list) or not classes or not all(map(_is_name, classes)):
        raise FovealError(
            f'{path} has no list "classes" of one or more names; write it as {_EXAMPLE}.'
        )
    twice = [name for place, name in enumerate(classes) if name in classes[:place]]
    if twice:
        raise FovealError(
            f"{path} names the class {twice[0]!r} twice; give each a name of its own."
        )
    ignore_index = content.get("ignore_index", IGNORE_INDEX)
    if not isinstance(ignore_index, int) or isinstance(ignore_index, bool):
        raise FovealError(
            f'{path}: "ignore_index" is the value of pixels that do not count, a whole number, got '
            f"{ignore_index!r}."
        )
    if 0 <= ignore_index < len(classes):
        raise FovealError(
            f'{path}: "ignore_index" is {ignore_index}, the index of the class '
            f"{classes[ignore_index]!r}; choose one that is no class's, {len(classes)} or more."
        )
    return tuple(classes), ignore_index


def write_classes(root: Path, classes: Sequence[str], ignore_index: int = IGNORE_INDEX) -> None:
    """Write the classes.json of a mask folder."""
    content = {"classes": list(classes), "ignore_index": ignore_index}
    write_text(root / CLASS_FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = "does not exist" if not path.exists() else f"cannot be read ({error.strerror})"
        raise FovealError(
            f"{path} {reason}; a mask folder has images/SPLIT, labels/SPLIT and {CLASS_FILE}, such "
            f"as {_EXAMPLE}."
        ) from error
    except (ValueError, RecursionError) as error:
        raise FovealError(f"{path} is not JSON ({error}); write it as {_EXAMPLE}.") from error
    if not isinstance(content, dict):
        raise FovealError(f"{path} is no JSON object; write it as {_EXAMPLE}.")
    return content


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _split_folders(root: Path, splits: Sequence[str] | None) -> dict[str, tuple[Path, Path]]:
    """Folders of pictures and of labels, by split."""
    folders = {name: (root / "images" / name, root / "labels" / name) for name in SPLITS}
    unknown = [name for name in splits or () if name not in folders]
    if unknown:
        raise FovealError(f"Splits are {', '.join(SPLITS)}, got {unknown[0]!r}.")
    complete = {name: both for name, both in folders.items() if all(map(Path.is_dir, both))}
    if splits is None and complete:
        return complete
    for name in splits or SPLITS[:1]:
        if name not in complete:
            gone = next(folder for folder in folders[name] if not folder.is_dir())
            raise FovealError(
                f"{gone} is no folder; a mask folder has pictures in images/{name} and, under the "
                f"same names, class indices as PNG in labels/{name}."
            )
    return {name: complete[name] for name in splits or ()}


def _counter(
    folders: Mapping[str, tuple[Path, Path]], on_done: Callable[[int, int], None] | None
) -> Callable[[], None]:
    """Called after each pair, tells `on_done`."""
    if on_done is None:
        return lambda: None
    total = sum(count_pairs(*both) for both in folders.values())
    done = count(1)
    return lambda: on_done(next(done), total)
