"""Every format gives the images and labels of the folder it was made from."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import config
from PIL import Image

from foveal.data.dataset import LabelledImages, Samples
from foveal.data.images import read_image
from foveal.data.source import find_format, read_source
from foveal.data.stream import Stream, StreamedImages
from foveal.errors import FovealError, MissingExtraError, OptionError
from tests.data.formats import CLASSES, FORMATS, items, write_parquet, write_tars
from tests.pictures import write_folder

Written = tuple[Path, Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("made") / "pictures", 8)


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, Path]:
    return {
        name: write(folder, folder.parent / name.replace(" ", "_"))
        for name, (_, write) in FORMATS.items()
    }


def pixels(image: Image.Image) -> bytes:
    return np.asarray(image).tobytes()


def shown(samples: Samples, classes: tuple[str, ...]) -> dict[bytes, str]:
    """The class of every image, by its pixels."""
    return {pixels(samples.read(i)): classes[samples.labels[i]] for i in range(len(samples))}


def streamed(stream: Stream, classes: tuple[str, ...]) -> dict[bytes, str]:
    found = {}
    bounds = stream.bounds
    for file in range(len(stream.sizes)):
        for index, source in stream.read(file, 0, bounds[file + 1] - bounds[file]):
            found[pixels(read_image(source))] = classes[stream.labels[index]]
    return found


def everything(data: LabelledImages) -> dict[bytes, str]:
    return {**shown(data.train, data.classes), **shown(data.val, data.classes)}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_gives_the_images_and_labels_of_its_folder(
    folder: Path, written: dict[str, Path], name: str
):
    data = read_source(written[name])
    assert find_format(written[name]) == FORMATS[name][0]
    assert data.classes == CLASSES
    assert (len(data.train), len(data.val)) == (21, 3)
    assert [data.val.labels.count(label) for label in range(3)] == [1, 1, 1]
    expected = everything(read_source(folder))
    assert len(expected) == 24
    assert everything(data) == expected


@pytest.mark.parametrize("name", ["parquet", "plain parquet", "tars", "tars with json"])
def test_a_stream_has_the_split_and_the_images_of_map_style(written: dict[str, Path], name: str):
    data = read_source(written[name], seed=3)
    stream = read_source(written[name], seed=3, streaming=True)
    assert isinstance(stream, StreamedImages)
    assert len(stream.train) == 21 and list(stream.train.labels) == list(data.train.labels)
    assert list(stream.val.names) == list(data.val.names)
    assert streamed(stream.train, stream.classes) == shown(data.train, data.classes)
    assert shown(stream.val, stream.classes) == shown(data.val, data.classes)


@pytest.mark.parametrize("name", FORMATS)
def test_splits_depend_on_the_seed_alone(written: dict[str, Path], name: str):
    splits = [tuple(read_source(written[name], seed=seed).val.names) for seed in (0, 0, 1, 2)]
    assert splits[0] == splits[1]
    assert len(set(splits)) > 1


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_files_that_name_their_part_are_taken_at_their_word(
    folder: Path, tmp_path: Path, write: Callable[..., Path], streaming: bool
):
    found = items(folder)
    write(found[:18], tmp_path / "train")
    write(found[18:21], tmp_path / "validation", pieces=1)
    write(found[21:], tmp_path / "test", pieces=1)
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    data = read_source(tmp_path, streaming=streaming)
    assert (len(data.train), len(data.val), data.ignored) == (18, 3, 1)
    assert all("validation" in name for name in data.val.names)
    assert data.classes == CLASSES


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_local_files_are_nobody_elses_business(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[..., Path],
    streaming: bool,
):
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *place, **_: asked.append(place))
    monkeypatch.setattr(config, "HF_UPDATE_DOWNLOAD_COUNTS", True)
    data = read_source(write(items(folder), tmp_path / "shards"), streaming=streaming)
    assert len(data.train) == 21
    assert not asked and config.HF_UPDATE_DOWNLOAD_COUNTS


def test_samples_are_taken_and_joined_without_reading(written: dict[str, Path]):
    data = read_source(written["parquet"])
    joined = data.val.join(data.train).take([0, 3, 23])
    assert len(joined) == 3
    assert pixels(joined.read(1)) == pixels(data.train.read(0))
    assert joined.names[0] == data.val.names[0]
    assert len(joined.sources[1:]) == 2


def break_nothing(root: Path) -> None:
    (root / "notes.txt").write_text("x")


def break_twice(root: Path) -> None:
    write_folder(root / "pictures", 1)
    (root / "a.tar").write_bytes(b"")


def break_parts(root: Path) -> None:
    (root / "train-0.parquet").write_bytes(b"")
    (root / "more.parquet").write_bytes(b"")


def break_damaged(root: Path) -> None:
    (root / "a.parquet").write_bytes(b"not parquet")


def break_tar(root: Path) -> None:
    (root / "a.tar").write_bytes(b"not a tar" * 100)


@pytest.mark.parametrize(
    ("prepare", "options", "words"),
    [
        (break_nothing, {}, r"files with \.txt, and none of class folders"),
        (break_twice, {}, "class folders and WebDataset tars; say which"),
        (break_parts, {}, "train-0.parquet names its part and .*more.parquet does not"),
        (break_damaged, {}, "Cannot read .*a.parquet"),
        (break_tar, {}, "Cannot read .*a.tar"),
        (break_nothing, {"format": "csv"}, "has no manifest.csv"),
        (break_nothing, {"format": "parquet"}, r"has no \.parquet files"),
        (break_nothing, {"format": "arrow"}, "Cannot read"),
        (break_twice, {"format": "folder", "streaming": True}, "leave streaming off"),
        (lambda root: root.rmdir(), {}, "does not exist; give class folders"),
        (lambda root: root.rmdir(), {"format": "arrow"}, "does not exist"),
    ],
)
def test_what_cannot_be_used_is_named(
    tmp_path: Path, prepare: Callable[[Path], Any], options: dict[str, Any], words: str
):
    root = tmp_path / "data"
    root.mkdir()
    prepare(root)
    with pytest.raises(FovealError, match=words):
        read_source(root, **options)


@pytest.mark.parametrize("write", [write_parquet, write_tars])
def test_without_datasets_the_extra_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., Path]
):
    shards = write(items(folder), tmp_path / "shards")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'foveal\[train\]'"):
        read_source(shards)
    assert len(read_source(folder).train) == 21, "class folders need nothing of it"


def test_a_misspelt_format_is_answered_with_the_nearest(tmp_path: Path):
    wrong: Any = "webdatset"
    with pytest.raises(OptionError, match="Did you mean 'webdataset'"):
        read_source(tmp_path, format=wrong)


def test_labels_that_are_no_classes_are_named(folder: Path, tmp_path: Path):
    found = items(folder)
    write_tars(found, tmp_path / "number", label=lambda _: ("cls", "7"))
    with pytest.raises(FovealError, match="sample 0 has the label 7, and there are 3 classes"):
        read_source(tmp_path / "number")
    write_tars(found, tmp_path / "word", label=lambda name: ("cls", name))
    with pytest.raises(FovealError, match="whole number"):
        read_source(tmp_path / "word")
    write_tars(found, tmp_path / "none", label=lambda _: ("text", ""))
    with pytest.raises(FovealError, match="has no label among png, text"):
        read_source(tmp_path / "none")
