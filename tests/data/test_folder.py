"""Image folders: both layouts, the split, and everything that can be wrong with one."""

from pathlib import Path

import pytest

from foveal.data.folder import read_folder
from foveal.errors import FovealError
from tests.pictures import picture, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures")


def test_classes_are_sorted_and_a_tenth_of_each_is_held_out(folder: Path):
    data = read_folder(folder)
    assert data.classes == ("blue", "green", "red")
    assert [data.val.labels.count(label) for label in range(3)] == [1, 1, 1]
    assert len(data.train) == 27
    assert not set(data.train.names) & set(data.val.names)


def test_the_split_depends_on_the_seed_alone(folder: Path):
    splits = [tuple(read_folder(folder, seed=seed).val.names) for seed in (0, 0, 1, 2, 3)]
    assert splits[0] == splits[1]
    assert len(set(splits)) > 1


def test_train_and_val_folders_are_taken_as_they_are(tmp_path: Path):
    write_folder(tmp_path / "train", 4)
    write_folder(tmp_path / "val", 2, start=50)
    data = read_folder(tmp_path)
    assert (len(data.train), len(data.val)) == (12, 6)
    assert all("/val/" in name for name in data.val.names)


def test_other_files_are_counted_and_hidden_ones_are_not(folder: Path):
    (folder / "red" / "notes.txt").write_text("x")
    (folder / "red" / ".DS_Store").write_text("x")
    (folder / ".cache").mkdir()
    data = read_folder(folder)
    assert (data.ignored, len(data.classes)) == (1, 3)


def damage(folder: Path) -> list[Path]:
    """An empty file, one cut short, and one that is no image."""
    empty, cut, text = (folder / "red" / name for name in ("a.png", "b.jpg", "c.png"))
    empty.write_bytes(b"")
    picture("red", 1, 200).save(cut)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    text.write_text("not an image")
    return [empty, cut, text]


def test_bad_images_are_refused_by_name(folder: Path):
    bad = damage(folder)
    with pytest.raises(FovealError) as error:
        read_folder(folder)
    assert all(str(path) in str(error.value) for path in bad)
    assert "3 of 33 images" in str(error.value) and "empty" in str(error.value)


def test_bad_images_are_skipped_and_reported(folder: Path):
    bad = damage(folder)
    data = read_folder(folder, on_bad_image="skip")
    assert [b.path for b in data.skipped] == bad
    assert len(data.train) + len(data.val) == 30


def test_a_class_of_bad_images_alone_is_refused(folder: Path):
    (folder / "white").mkdir()
    (folder / "white" / "a.png").write_bytes(b"")
    with pytest.raises(FovealError, match=r"No image in .*white can be read"):
        read_folder(folder, on_bad_image="skip")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda root: root / "nowhere", "does not exist"),
        (lambda root: next((root / "red").iterdir()), "is a file"),
        (lambda root: root / "red", "has no class folders"),
        (lambda root: (root / "white").mkdir() or root, "white has no images"),
    ],
)
def test_what_is_no_data_folder(folder: Path, break_it, words: str):
    with pytest.raises(FovealError, match=words):
        read_folder(break_it(folder))


def test_a_class_that_is_in_val_alone_is_refused(tmp_path: Path):
    write_folder(tmp_path / "train", 2)
    write_folder(tmp_path / "val", 1)
    (tmp_path / "val" / "white").mkdir()
    with pytest.raises(FovealError, match="'white' that is not among"):
        read_folder(tmp_path)
