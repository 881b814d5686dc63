"""Cityscapes as it is published (leftImg8bit and gtFine), to a mask folder.

leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png and gtFine/SPLIT/CITY/NAME_gtFine_labelIds.png with 34
labels, 19 of which are judged. The labels of the split test are not published.
"""

from pathlib import Path

from foveal.data.conversion import OnDone, scene_pairs, write_mask_folder
from foveal.data.mask_folder import IGNORE_INDEX

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
    # In folders of cities; names begin with the city and are unique.
    splits = {
        split: scene_pairs(
            (root / "leftImg8bit" / split, f"*/*{_IMAGE_END}"),
            (root / "gtFine" / split, f"*/*{_LABEL_END}"),
            "the folder into which leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip were "
            "unpacked",
        )
        for split in _SPLITS
    }
    new_index = dict.fromkeys(range(_NUM_LABELS), IGNORE_INDEX)
    new_index |= {old: new for new, old in enumerate(JUDGED)}
    return write_mask_folder(output, tuple(JUDGED.values()), splits, new_index, on_done)
