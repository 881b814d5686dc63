"""ADE20K as its scene parsing benchmark publishes it (ADEChallengeData2016), to a mask folder.

images/{training,validation}/NAME.jpg and annotations/{training,validation}/NAME.png with 0 for
everything else, which does not count, and 1 to 150 for the classes; objectInfo150.txt names them.
"""

from collections import Counter
from pathlib import Path

from foveal.data.conversion import OnDone, scene_pairs, write_mask_folder
from foveal.data.mask_folder import IGNORE_INDEX
from foveal.errors import FovealError

NUM_CLASSES = 150
_SPLITS = {"train": "training", "val": "validation"}
_NAMES_FILE = "objectInfo150.txt"


def convert_ade20k(
    source: str | Path, output: str | Path, on_done: OnDone | None = None
) -> dict[str, int]:
    """Write ADE20K as a mask folder: 150 classes, 0 to 149, and 255 for everything else.

    Args:
        source: the folder ADEChallengeData2016.
        output: a folder that does not exist yet.
        on_done: called with how many of how many scenes are written.

    Returns:
        Number of scenes in "train" and in "val".

    Raises:
        FovealError: the collection is not whole, or `output` is there or cannot be written.
    """
    root = Path(source)
    given = "the folder ADEChallengeData2016 with images and annotations"
    splits = {
        new: scene_pairs(
            (root / "images" / old, "*.jpg"), (root / "annotations" / old, "*.png"), given
        )
        for new, old in _SPLITS.items()
    }
    new_index = {0: IGNORE_INDEX, **{label + 1: label for label in range(NUM_CLASSES)}}
    return write_mask_folder(output, ade20k_names(root), splits, new_index, on_done)


def ade20k_names(root: Path) -> tuple[str, ...]:
    """The 150 names: of several for a class, the first; numbers where the list is missing.

    Raises:
        FovealError: the list is damaged.
    """
    path = root / _NAMES_FILE
    if not path.is_file():
        return tuple(f"class {label + 1}" for label in range(NUM_CLASSES))
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [line.split("\t") for line in lines if line[:1].isdigit()]
    numbers = [row[0].strip() for row in rows]
    if numbers != [str(number) for number in range(1, NUM_CLASSES + 1)]:
        raise FovealError(
            f"{path} does not list the classes 1 to {NUM_CLASSES} in their order; take the file "
            "that comes with the collection, or remove it to have the classes numbered."
        )
    full = [row[-1].strip() for row in rows]
    short = [name.split(",")[0].strip() for name in full]
    often = Counter(short)
    return tuple(
        first if often[first] == 1 else name for first, name in zip(short, full, strict=True)
    )
