"""Mask folders: what is read, what comes out as batches, and every fault that is named."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data.joint_augmentation import SegmentationAugmentation
from foveal.data.joint_transforms import segmentation_transforms
from foveal.data.loader import eval_loader, train_loader
from foveal.data.mask_folder import MaskFolder, read_mask_folder, write_classes
from foveal.data.problems import AnnotationProblems
from foveal.data.segmentation import LabelError, read_label
from foveal.errors import FovealError
from tests.data.scenes import CLASSES, SIZE, bands, scene, write_mask_folder, write_scene

PLAIN = ((0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_mask_folder(tmp_path / "scenes")


def labels_of(folder: Path, name: str = "001") -> Path:
    return folder / "labels" / "train" / f"{name}.png"


def image_of(folder: Path, name: str = "001") -> Path:
    return folder / "images" / "train" / f"{name}.png"


def train_problems(folder: Path) -> AnnotationProblems:
    return read_mask_folder(folder).split("train").problems


def test_splits_classes_and_counts_are_those_of_the_files(folder: Path):
    data = read_mask_folder(folder, strict=True)
    assert (data.classes, data.ignore_index) == (CLASSES, 255)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 2}
    train = data.split("train")
    labels = np.stack([bands(number) for number in range(6)])
    assert train.pixels == tuple(int((labels == label).sum()) for label in range(3))
    assert train.ignored == int((labels == 255).sum()) == 6 * SIZE[0]
    assert train.absent == () and not train.problems
    assert (train.problems.images, train.problems.annotations) == ((6, 6), (6, 6))
    for number, one in enumerate(train.scenes):
        assert np.array_equal(one.read_label(), bands(number))
        assert np.array_equal(np.array(one.read_image()), np.array(scene(number)))


def test_classes_without_a_pixel_are_named(folder: Path):
    write_classes(folder, [*CLASSES, "zebra"])
    assert read_mask_folder(folder).split("val").absent == ("zebra",)


def test_pictures_in_folders_of_folders_are_matched_by_path(folder: Path):
    for town in ("a", "b"):
        write_scene(folder, "train", f"{town}/000", 3)
    split = read_mask_folder(folder, strict=True).split("train")
    assert len(split) == 8
    assert all(one.image.stem == one.label.stem for one in split.scenes)
    assert [one.label.parent.name for one in split.scenes].count("b") == 1


def test_endings_differ_and_other_files_are_passed_over(folder: Path):
    scene(1).save(image_of(folder).with_suffix(".JPG"), format="JPEG")
    image_of(folder).unlink()
    (folder / "labels" / "train" / "notes.txt").write_text("x")
    (folder / "labels" / "train" / ".hidden.png").write_text("x")
    assert len(read_mask_folder(folder, strict=True).split("train")) == 6


def palette(indices: np.ndarray) -> Image.Image:
    image = Image.fromarray(indices, mode="P")
    image.putpalette([(37 * number) % 256 for number in range(768)])
    return image


@pytest.mark.parametrize(
    "write",
    [
        palette,
        lambda indices: Image.fromarray(indices.astype(np.uint16)),
        lambda indices: Image.fromarray(indices.astype(np.int32)),
    ],
    ids=["palette", "16 bits", "32 bits"],
)
def test_labels_are_indices_in_whatever_image_keeps_them(folder: Path, write: Any):
    path = labels_of(folder)
    write(bands(1)).save(path.with_suffix(".tif"))
    path.unlink()
    data = read_mask_folder(folder, strict=True)
    found = data.split("train").scenes[1].read_label()
    assert np.array_equal(found, bands(1))
    assert sum(data.split("train").pixels) + data.split("train").ignored == 6 * SIZE[0] * SIZE[1]


def test_more_than_256_classes(folder: Path):
    write_classes(folder, [f"class {number}" for number in range(300)], 65535)
    for split in ("train", "val"):
        for path in (folder / "labels" / split).iterdir():
            wide = np.where(bands(0) == 255, 65535, bands(0).astype(np.uint16) + 297)
            Image.fromarray(wide.astype(np.uint16)).save(path)
    data = read_mask_folder(folder, strict=True)
    transform = segmentation_transforms(
        *PLAIN,
        SegmentationAugmentation(scales=(64,), jitter=None, crop=(80, 96)),
        True,
        data.ignore_index,
    )
    label = data.split("train").dataset(transform)[0]["label"]
    assert label.unique().tolist() == [297, 298, 299, 65535]


def turned(folder: Path) -> None:
    """A picture that its camera says is on its side, with labels of the upright one."""
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(1).transpose(Image.Transpose.ROTATE_90).save(image_of(folder), exif=exif)


def test_pictures_are_turned_as_their_labels_are(folder: Path):
    turned(folder)
    one = read_mask_folder(folder, strict=True).split("train").scenes[1]
    assert one.upright and np.array_equal(np.array(one.read_image()), np.array(scene(1)))
    Image.fromarray(np.rot90(bands(1)).copy()).save(labels_of(folder))
    one = read_mask_folder(folder, strict=True).split("train").scenes[1]
    assert not one.upright and one.read_image().size == one.read_label().shape[::-1]


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def in_colours(folder: Path) -> None:
    palette(bands(1)).convert("RGB").save(labels_of(folder))


def as_jpeg(folder: Path) -> None:
    Image.fromarray(bands(1)).save(labels_of(folder).with_suffix(".jpg"))
    labels_of(folder).unlink()


def with_value(folder: Path, *values: int) -> None:
    indices = bands(1)
    indices[0, : len(values)] = values
    Image.fromarray(indices).save(labels_of(folder))


def twice(folder: Path) -> None:
    scene(1).save(image_of(folder).with_suffix(".bmp"))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "picture without labels": (lambda f: labels_of(f).unlink(), "001"),
    "labels without a picture": (lambda f: image_of(f).unlink(), "001"),
    "several files of one name": (twice, "001.bmp and 001.png"),
    "unreadable picture": (lambda f: cut_short(image_of(f)), "001 (the file is damaged"),
    "unreadable label": (lambda f: cut_short(labels_of(f)), "001 (the file is damaged"),
    "label in colours": (in_colours, "001"),
    "label in JPEG": (as_jpeg, "001"),
    "label of another size": (
        lambda f: Image.fromarray(bands(1, (20, 16))).save(labels_of(f)),
        "001 (20 × 16, not 40 × 32)",
    ),
    "unknown class index": (lambda f: with_value(f, 9, 3), "001 (3, 9)"),
    "nothing labelled": (lambda f: with_value_everywhere(f, 255), "001"),
}


def with_value_everywhere(folder: Path, value: int) -> None:
    Image.fromarray(np.full_like(bands(1), value)).save(labels_of(folder))


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_counted_named_and_left_out(folder: Path, kind: str):
    make, example = FAULTS[kind]
    make(folder)
    data = read_mask_folder(folder)
    split = data.split("train")
    assert [problem.kind for problem in split.problems.found] == [kind]
    assert split.problems.total == 1 and example in str(split.problems)
    assert [one.image.stem for one in split.scenes] == ["000", "002", "003", "004", "005"]
    assert split.problems.images[1] == 5 and not data.split("val").problems
    with pytest.raises(FovealError, match=kind) as error:
        read_mask_folder(folder, strict=True)
    assert "--strict" in str(error.value) and "001" in str(error.value)


def test_faults_of_all_kinds_are_counted_together(folder: Path):
    labels_of(folder, "000").unlink()
    labels_of(folder, "002").write_bytes(b"")
    labels_of(folder, "003").write_bytes(b"")
    with_value(folder, *range(20, 40))
    problems = train_problems(folder)
    assert problems.total == 4 and problems.count("unreadable label") == 2
    assert "20, 21, 22, 23, 24, …" in str(problems)


def test_a_split_of_faults_alone_is_refused(folder: Path):
    for path in (folder / "labels" / "val").iterdir():
        palette(bands(0)).convert("RGB").save(path)
    with pytest.raises(FovealError, match=r"val has no picture .* 2 × label in colours .* PNG"):
        read_mask_folder(folder)
    assert len(read_mask_folder(folder, splits=("train",)).split("train")) == 6


def test_colours_in_place_of_indices_are_refused_in_a_sentence(folder: Path):
    in_colours(folder)
    with pytest.raises(LabelError, match=r"001.png is in colours \(RGB\), and a label file holds"):
        read_label(labels_of(folder))


def test_every_pair_is_told_of_once_in_this_thread(folder: Path):
    told: list[tuple[int, int]] = []
    here = threading.get_ident()

    def on_done(done: int, total: int) -> None:
        assert threading.get_ident() == here
        told.append((done, total))

    labels_of(folder).unlink()
    read_mask_folder(folder, on_done=on_done)
    assert told == [(number, 7) for number in range(1, 8)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is no JSON object"),
        ("{}", 'has no list "classes"'),
        ('{"classes": []}', 'has no list "classes"'),
        ('{"classes": ["a", 3]}', 'has no list "classes"'),
        ('{"classes": ["a", "b", "a"]}', "names the class 'a' twice"),
        ('{"classes": ["a"], "ignore_index": "x"}', "a whole number, got 'x'"),
        ('{"classes": ["a"], "ignore_index": true}', "a whole number, got True"),
        ('{"classes": ["a", "b"], "ignore_index": 1}', "the index of the class 'b'"),
    ],
)
def test_what_is_no_class_file(folder: Path, content: str, words: str):
    (folder / "classes.json").write_text(content)
    with pytest.raises(FovealError, match=words):
        read_mask_folder(folder)


def test_255_is_ignored_where_nothing_is_said(folder: Path):
    (folder / "classes.json").write_text(json.dumps({"classes": CLASSES, "size": [32, 40]}))
    assert read_mask_folder(folder, strict=True).ignore_index == 255


def test_another_ignored_index(folder: Path):
    write_classes(folder, CLASSES, 7)
    for path in folder.glob("labels/*/*.png"):
        Image.fromarray(np.where(bands(0) == 255, 7, bands(0)).astype(np.uint8)).save(path)
    assert read_mask_folder(folder, strict=True).split("val").ignored == 2 * SIZE[0]


@pytest.mark.parametrize(
    ("change", "splits", "words"),
    [
        (lambda f: (f / "classes.json").unlink(), None, "classes.json does not exist"),
        (lambda f: None, ("test",), r"images/test is no folder"),
        (lambda f: (f / "labels").rename(f / "masks"), None, r"labels/train is no folder"),
        (lambda f: None, ("dev",), "Splits are train, val, test, got 'dev'"),
    ],
)
def test_what_is_no_mask_folder(folder: Path, change: Any, splits: Any, words: str):
    change(folder)
    with pytest.raises(FovealError, match=words):
        read_mask_folder(folder, splits=splits)


def test_a_split_that_was_not_read_is_asked_for_in_vain(folder: Path):
    data: MaskFolder = read_mask_folder(folder)
    with pytest.raises(FovealError, match="has the splits train, val, not 'test'"):
        data.split("test")


def test_training_batches_are_stacked_and_the_same_again(folder: Path):
    data = read_mask_folder(folder)
    config = SegmentationAugmentation(
        scales=(32, 40), max_side=None, jitter=(0.8, 1.5), crop=(32, 48), photometric=True
    )
    transform = segmentation_transforms(*PLAIN, config, True, data.ignore_index)

    def batches(epoch: int, workers: int = 0) -> list[dict[str, Any]]:
        dataset = data.split("train").dataset(transform, seed=3)
        loader = train_loader(dataset, batch_size=3, seed=3, workers=workers)
        loader.set_epoch(epoch)
        return list(loader)

    first = batches(0)
    assert [batch["image"].shape for batch in first] == [(3, 3, 32, 48)] * 2
    assert all(batch["label"].dtype == torch.int64 for batch in first)
    assert all(batch["label"].shape == (3, 32, 48) for batch in first)
    assert sorted(torch.cat([batch["index"] for batch in first]).tolist()) == list(range(6))
    assert all(name.endswith(".png") for batch in first for name in batch["name"])
    for one, again in zip(first, batches(0, workers=1), strict=True):
        assert torch.equal(one["image"], again["image"])
        assert torch.equal(one["label"], again["label"])
    dataset = data.split("train").dataset(transform, seed=3)
    drawn = dataset[0]["image"]
    dataset.set_epoch(1)
    assert not torch.equal(drawn, dataset[0]["image"])


def test_judging_gives_whole_pictures_one_by_one(folder: Path):
    scene(9, (50, 36)).save(folder / "images" / "val" / "001.png")
    Image.fromarray(bands(9, (50, 36))).save(folder / "labels" / "val" / "001.png")
    data = read_mask_folder(folder, strict=True)
    transform = segmentation_transforms(
        *PLAIN, SegmentationAugmentation(), False, data.ignore_index
    )
    batches = list(eval_loader(data.split("val").dataset(transform), batch_size=1))
    assert [tuple(batch["image"].shape) for batch in batches] == [(1, 3, 32, 40), (1, 3, 36, 50)]
    for batch, expected in zip(batches, (bands(0), bands(9, (50, 36))), strict=True):
        assert torch.equal(batch["label"][0], torch.from_numpy(expected).long())
