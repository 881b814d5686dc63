"""Cityscapes' layout, written anew as a mask folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.data.cityscapes import convert_cityscapes
from foveal.data.mask_folder import read_mask_folder
from foveal.errors import FovealError

CITIES = {"train": ("aachen", "ulm"), "val": ("munster",)}
LABELS = np.arange(34, dtype=np.uint8).reshape(2, 17)
# From the published table of labels: -1 stands for what is not judged.
TRAIN_IDS = [
    *(-1,) * 7,
    *(0, 1, -1, -1, 2, 3, 4, -1, -1, -1, 5, -1, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
    *(-1, -1, 16, 17, 18),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    for split, cities in CITIES.items():
        for city in cities:
            image, label = (root / kind / split / city for kind in ("leftImg8bit", "gtFine"))
            image.mkdir(parents=True)
            label.mkdir(parents=True)
            name = f"{city}_000000_000019"
            Image.new("RGB", (17, 2), (0, 99, 0)).save(image / f"{name}_leftImg8bit.png")
            Image.fromarray(LABELS).save(label / f"{name}_gtFine_labelIds.png")
            Image.new("RGBA", (17, 2)).save(label / f"{name}_gtFine_color.png")
            Image.new("I;16", (17, 2)).save(label / f"{name}_gtFine_instanceIds.png")
    return root


def test_the_19_judged_labels_get_their_indices_and_others_are_ignored(
    source: Path, tmp_path: Path
):
    told: list[tuple[int, int]] = []
    output = tmp_path / "out"
    counts = convert_cityscapes(source, output, lambda done, total: told.append((done, total)))
    assert counts == {"train": 2, "val": 1} and told == [(1, 3), (2, 3), (3, 3)]
    data = read_mask_folder(output, strict=True)
    assert data.classes[::6] == ("road", "traffic light", "rider", "bicycle")
    assert data.classes[13:17] == ("car", "truck", "bus", "train")
    assert (len(data.classes), data.ignore_index) == (19, 255)
    names = [scene.image.name for scene in data.split("train").scenes]
    assert names == ["aachen_000000_000019.png", "ulm_000000_000019.png"]
    expected = [255 if label < 0 else label for label in TRAIN_IDS]
    for split in data.splits.values():
        for scene in split.scenes:
            assert scene.read_label().flatten().tolist() == expected
            assert scene.image.samefile(next(source.rglob(f"{scene.image.stem}_leftImg8bit.png")))


def no_labels(source: Path) -> None:
    next(source.rglob("ulm*labelIds.png")).unlink()


def train_ids_in_their_place(source: Path) -> None:
    Image.fromarray(np.full((2, 17), 255, np.uint8)).save(next(source.rglob("ulm*labelIds.png")))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_labels, "1 of 2 files in .*train have no labels: ulm_000000_000019"),
        (train_ids_in_their_place, "labelIds.png holds 255, which the collection does not have"),
        (lambda source: (source / "gtFine").rename(source / "x"), "gtFine/train is no folder"),
    ],
)
def test_a_collection_that_is_not_whole_leaves_nothing_behind(
    source: Path, tmp_path: Path, change, words: str
):
    change(source)
    with pytest.raises(FovealError, match=words):
        convert_cityscapes(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["cityscapes"]
