"""CSV manifests: taken at their word, and every kind of mistake named with its line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from foveal.data.source import read_source
from foveal.errors import FovealError
from tests.pictures import write_folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folder(tmp_path / "pictures", 4)
    return tmp_path


def lines(splits: tuple[str, ...] = ()) -> list[str]:
    """Twelve images, four a class; the fourth of each in val if splits are wanted."""
    rows = ["image,label" + (",split" if splits else "")]
    for name in ("blue", "green", "red"):
        for number in range(4):
            part = f",{splits[number]}" if splits else ""
            rows.append(f"pictures/{name}/{number:03d}.png,{name}{part}")
    return rows


PARTS = ("train", "train", "train", "val")


def write(root: Path, rows: list[str], encoding: str = "utf-8") -> Path:
    path = root / "manifest.csv"
    path.write_text("\n".join(rows) + "\n", encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_split_column_is_followed(root: Path, encoding: str):
    data = read_source(write(root, lines(PARTS), encoding))
    assert data.classes == ("blue", "green", "red")
    assert (len(data.train), len(data.val)) == (9, 3)
    assert all(name.endswith("003.png") for name in data.val.names)
    assert data.found == "a CSV manifest, manifest.csv"


def test_without_the_column_a_share_is_held_out(root: Path):
    data = read_source(write(root, lines()), held_out=0.25)
    assert [data.val.labels.count(label) for label in range(3)] == [1, 1, 1]


def change(line: int, text: str) -> Callable[[list[str]], list[str]]:
    """The file with one line written otherwise; lines count from 1."""

    def changed(rows: list[str]) -> list[str]:
        return [text if number == line else row for number, row in enumerate(rows, start=1)]

    return changed


MISTAKES: dict[str, tuple[Callable[[list[str]], Any], str]] = {
    "no label column": (change(1, "image,clas,split"), "line 1: there is no column 'label'"),
    "no image column": (change(1, "file,label,split"), "line 1: there is no column 'image'"),
    "no such file": (
        change(4, "pictures/blue/9.png,blue,train"),
        r"1 images that are no files: line 4 \(",
    ),
    "unknown split": (change(3, "pictures/blue/001.png,blue,test"), "line 3: the split is 'test'"),
    "no split": (change(3, "pictures/blue/001.png,blue"), "line 3: the split is ''"),
    "no label": (change(6, "pictures/green/000.png,,train"), "line 6: the label is missing"),
    "no image": (change(6, ",green,train"), "line 6: the image is missing"),
    "twice": (change(8, "pictures/blue/000.png,green,val"), "line 8: the image of line 2 again"),
    "val alone": (change(5, "pictures/blue/003.png,cyan,val"), "line 5: the class 'cyan' is in"),
    "empty": (lambda rows: rows[:1], "lists no images"),
    "nothing": (lambda _: [], "line 1: there is no column 'image' among none"),
    "no val": (
        lambda rows: [row.replace(",val", ",train") for row in rows],
        "no line whose split is val",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_their_line(root: Path, mistake: str):
    make, words = MISTAKES[mistake]
    with pytest.raises(FovealError, match=words):
        read_source(write(root, make(lines(PARTS))))


def test_what_is_no_text_is_refused(root: Path):
    (root / "manifest.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(FovealError, match="cannot be read as a CSV file"):
        read_source(root)


def test_bad_images_of_a_manifest(root: Path):
    bad = root / "pictures" / "red" / "001.png"
    bad.write_bytes(b"")
    path = write(root, lines(PARTS))
    with pytest.raises(FovealError, match=r"1 of 12 images .*red/001.png \(the file is empty\)"):
        read_source(path)
    data = read_source(path, on_bad_image="skip")
    assert [image.path for image in data.skipped] == [bad]
    assert (len(data.train), len(data.val)) == (8, 3)


def test_a_class_of_bad_images_alone_is_refused(root: Path):
    for image in (root / "pictures" / "red").iterdir():
        image.write_bytes(b"")
    with pytest.raises(FovealError, match="No image of the class 'red' can be read"):
        read_source(write(root, lines()), on_bad_image="skip")
