"""ADE20K's layout, written anew as a mask folder."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveal.data.ade20k import ade20k_names, convert_ade20k
from foveal.data.mask_folder import read_mask_folder
from foveal.errors import FovealError

SPLITS = {"training": 3, "validation": 2}


def published(number: int) -> np.ndarray:
    """Labels from 0 to 150, in an order of their own."""
    values = (np.arange(12 * 20) + 17 * number) % 151
    return values.reshape(12, 20).astype(np.uint8)


def name_list(names: list[str]) -> str:
    """As published, stray spaces included."""
    rows = (f"{place} \t0.1\t10\t1\t{name} \n" for place, name in enumerate(names, 1))
    return "Idx\tRatio\tTrain\tVal\tName\n" + "".join(rows)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    for split, count in SPLITS.items():
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            name = f"ADE_{split[:5]}_{number:08d}"
            Image.new("RGB", (20, 12), (number, 0, 0)).save(root / f"images/{split}/{name}.jpg")
            Image.fromarray(published(number)).save(root / f"annotations/{split}/{name}.png")
    names = [f"thing {number}, matter {number}" for number in range(1, 149)]
    (root / "objectInfo150.txt").write_text(name_list([*names, "door, gate", "door, hatch"]))
    return root


def test_labels_count_from_0_and_what_was_0_is_ignored(source: Path, tmp_path: Path):
    told: list[tuple[int, int]] = []
    output = tmp_path / "new" / "ade"
    counts = convert_ade20k(source, output, lambda done, total: told.append((done, total)))
    assert counts == {"train": 3, "val": 2}
    assert told == [(number, 5) for number in range(1, 6)]
    data = read_mask_folder(output, strict=True)
    assert (len(data.classes), data.ignore_index) == (150, 255)
    for split, count in counts.items():
        assert len(data.split(split)) == count
        for number, scene in enumerate(data.split(split).scenes):
            old = published(number).astype(int)
            assert np.array_equal(scene.read_label(), np.where(old == 0, 255, old - 1))
            assert scene.image.name == scene.label.name.replace(".png", ".jpg")


def test_pictures_are_the_same_files_and_nothing_else_is_left(source: Path, tmp_path: Path):
    output = tmp_path / "ade"
    convert_ade20k(source, output)
    for path in (output / "images").rglob("*.jpg"):
        split = {"train": "training", "val": "validation"}[path.parent.name]
        assert path.samefile(source / "images" / split / path.name)
    assert {path.name for path in tmp_path.iterdir()} == {"ADEChallengeData2016", "ade"}
    (tmp_path / "plain").mkdir()
    assert output.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_pictures_are_copied_where_they_cannot_be_linked(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    convert_ade20k(source, tmp_path / "ade")
    new = next((tmp_path / "ade/images/val").iterdir())
    old = source / "images/validation" / new.name
    assert new.read_bytes() == old.read_bytes() and not new.samefile(old)


def test_of_several_names_the_first_is_taken_unless_two_classes_share_it(source: Path):
    names = ade20k_names(source)
    assert names[0] == "thing 1" and names[147] == "thing 148"
    assert names[148:] == ("door, gate", "door, hatch")


def test_classes_are_numbered_where_the_list_is_missing(source: Path):
    (source / "objectInfo150.txt").unlink()
    assert ade20k_names(source)[::149] == ("class 1", "class 150")


def test_a_list_of_other_classes_is_refused(source: Path):
    (source / "objectInfo150.txt").write_text(name_list(["wall", "sky"]))
    with pytest.raises(FovealError, match="does not list the classes 1 to 150"):
        ade20k_names(source)


def no_labels(source: Path) -> None:
    next((source / "annotations" / "training").iterdir()).unlink()


def no_picture(source: Path) -> None:
    next((source / "images" / "validation").iterdir()).unlink()


def strange_value(source: Path) -> None:
    path = sorted((source / "annotations" / "validation").iterdir())[-1]
    Image.fromarray(np.full((12, 20), 151, np.uint8)).save(path)


def wide_values(source: Path) -> None:
    path = sorted((source / "annotations" / "validation").iterdir())[0]
    Image.fromarray(np.array([[7, 300, 4000]], np.uint16)).save(path)


def damaged(source: Path) -> None:
    next((source / "annotations" / "validation").iterdir()).write_bytes(b"x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_labels, r"1 of 3 files in .*training have no labels: ADE_train_"),
        (no_picture, r"1 of 2 files in .*validation have no picture: ADE_valid_"),
        (strange_value, r"00000001.png holds 151, which the collection does not have"),
        (wide_values, r"00000000.png holds 300, 4000, which the collection does not have"),
        (damaged, "is not an image that can be read"),
        (lambda source: (source / "images").rename(source / "x"), "images/training is no folder"),
    ],
)
def test_a_collection_that_is_not_whole_leaves_nothing_behind(
    source: Path, tmp_path: Path, change, words: str
):
    change(source)
    with pytest.raises(FovealError, match=words):
        convert_ade20k(source, tmp_path / "ade")
    assert [path.name for path in tmp_path.iterdir()] == ["ADEChallengeData2016"]


def test_what_is_there_is_not_written_over(source: Path, tmp_path: Path):
    (tmp_path / "ade").mkdir()
    (tmp_path / "ade" / "mine.txt").write_text("x")
    with pytest.raises(FovealError, match="exists already"):
        convert_ade20k(source, tmp_path / "ade")
    assert [path.name for path in (tmp_path / "ade").iterdir()] == ["mine.txt"]
    (tmp_path / "ade" / "mine.txt").unlink()
    convert_ade20k(source, tmp_path / "ade")
    assert (tmp_path / "ade" / "classes.json").is_file()


def test_a_folder_that_cannot_be_written_is_named(source: Path, tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FovealError, match=r"Cannot write .*file/ade"):
        convert_ade20k(source, tmp_path / "file" / "ade")
