"""Cityscapes as it is published (leftImg8bit and gtFine), to a mask folder.

leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png with 34
labels, 19 of which are judged. The labels of the split test are not published.
"""

from pathlib import Path

from foveal.data.conversion import OnDone, ScenePair, require_partners, write_mask_folder
from foveal.data.mask_folder import IGNORE_INDEX
from foveal.errors import FovealError

# Name of each judged class by its label in the files; their order is that of the class indices.
JUDGED = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_NUM_LABELS = 34
_SPLITS = ("train", "val")
_IMAGE_END = "_leftImg8bit.png"
_LABEL_END = "_gtFine_labelIds.png"


def convert_cityscapes(
    source: str | Path, output: str | Path, on_done: OnDone | None = None
) -> dict[str, int]:
    """Write Cityscapes as a mask folder: the 19 judged classes, and 255 for everything else.

    Args:
        source: the folder that holds leftImg8bit and gtFine.
        output: a folder that does not exist yet.
        on_done: called with how many of how many scenes are written.

    Returns:
        Number of scenes in "train" and in "val".

    Raises:
        FovealError: the collection is not whole, or `output` is there or cannot be written.
    """
    root = Path(source)
    splits = {split: _pairs(root, split) for split in _SPLITS}
    new_index = dict.fromkeys(range(_NUM_LABELS), IGNORE_INDEX)
    new_index |= {old: new for new, old in enumerate(JUDGED)}
    return write_mask_folder(output, tuple(JUDGED.values()), splits, new_index, on_done)


def _pairs(root: Path, split: str) -> list[ScenePair]:
    pictures, annotations = root / "leftImg8bit" / split, root / "gtFine" / split
    for folder in (pictures, annotations):
        if not folder.is_dir():
            raise FovealError(
                f"{folder} is no folder; give the folder into which leftImg8bit_trainvaltest.zip "
                "and gtFine_trainvaltest.zip were unpacked."
            )
    images, labels = _by_name(pictures, _IMAGE_END), _by_name(annotations, _LABEL_END)
    require_partners(images, labels, pictures)
    return [ScenePair(images[name], labels[name], name) for name in sorted(images)]


def _by_name(folder: Path, end: str) -> dict[str, Path]:
    """Files in the folders of the cities; names begin with the city and are unique."""
    return {path.name.removesuffix(end): path for path in folder.glob(f"*/*{end}")}
