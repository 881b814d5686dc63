"""VOC's XML files: the boxes they mean, as a COCO file; what is dangerous or faulty is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveal.data.coco import read_coco, write_coco
from foveal.data.voc import convert_voc, parse_xml
from foveal.errors import FovealError

BOMB = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "aaaaaaaaaa"><!ENTITY y "&x;&x;&x;&x;">]>
<annotation><filename>&y;</filename></annotation>"""
STRANGER = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation>&x;</annotation>'


def thing(name: str = "dog", box: tuple[Any, ...] = (1, 1, 10, 8), extra: str = "") -> str:
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inner = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return f"<object><name>{name}</name>{extra}<bndbox>{inner}</bndbox></object>"


def write_voc(root: Path, objects: dict[str, str], size: str | None = None) -> Path:
    """A folder in VOC's layout, pictures of 40 × 30 pixels."""
    told = "<size><width>40</width><height>30</height></size>" if size is None else size
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for stem, inner in objects.items():
        text = f"<annotation><filename>{stem}.jpg</filename>{told}{inner}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{stem}.jpg")
    return root


def boxes(root: Path, **options: Any) -> list[list[float]]:
    return [one["bbox"] for one in convert_voc(root, **options).content["annotations"]]


def test_pixels_count_from_one_and_the_last_is_inside(tmp_path: Path):
    root = write_voc(tmp_path / "voc", {"a": thing(box=(1, 1, 40, 30)) + thing(box=(5, 6, 5, 6))})
    assert boxes(root) == [[0, 0, 40, 30], [4, 5, 1, 1]]
    assert boxes(root, first_pixel=0) == [[1, 1, 39, 29]], "the other has no area there"


def test_the_result_is_a_good_coco_file(tmp_path: Path):
    dog = thing(
        extra="<occluded>1</occluded><truncated>1</truncated><part><name>head</name></part>"
    )
    hard = thing("cat", (2.5, 3, 20, 21.5), "<difficult>1</difficult>")
    root = write_voc(tmp_path / "voc", {"b": dog + hard, "a": "", "c": thing("cat")})
    done = convert_voc(root)
    assert not done.problems and done.classes == ("cat", "dog")
    write_coco(tmp_path / "out.json", done.content)
    found = read_coco(tmp_path / "out.json", root / "JPEGImages", strict=True)
    assert [image.path.name for image in found.images] == ["a.jpg", "b.jpg", "c.jpg"]
    assert [image.labels.tolist() for image in found.images] == [[], [1, 0], [0]]
    assert found.images[1].crowd.tolist() == [False, True]
    assert found.images[1].boxes.tolist() == [[0, 0, 10, 8], [1.5, 2, 20, 21.5]]
    assert found.images[1].areas.tolist() == [80, 18.5 * 19.5]


@pytest.mark.parametrize(
    ("difficult", "crowd"), [("crowd", [1, 0]), ("keep", [0, 0]), ("drop", [0])]
)
def test_difficult_objects(tmp_path: Path, difficult: Any, crowd: list[int]):
    inner = thing(extra="<difficult>1</difficult>") + thing(extra="<difficult>0</difficult>")
    done = convert_voc(write_voc(tmp_path / "voc", {"a": inner}), difficult=difficult)
    assert [one["iscrowd"] for one in done.content["annotations"]] == crowd
    assert not done.problems and done.problems.annotations == (len(crowd), len(crowd))


def test_splits_share_their_classes(tmp_path: Path):
    root = write_voc(tmp_path / "voc", {"a": thing("dog"), "b": thing("cat"), "c": thing("ant")})
    lists = root / "ImageSets" / "Main"
    (lists / "train.txt").write_text("b\n\na\n")
    (lists / "val.txt").write_text("c\n")
    (lists / "cat_train.txt").write_text("a -1\nb  1\n")
    train, val = convert_voc(root, split="train"), convert_voc(root, split="val")
    assert train.classes == val.classes == ("ant", "cat", "dog")
    assert [image["file_name"] for image in train.content["images"]] == ["b.jpg", "a.jpg"]
    assert [one["category_id"] for one in val.content["annotations"]] == [1]
    assert len(convert_voc(root, split="cat_train").content["images"]) == 2
    with pytest.raises(FovealError, match=r"Did you mean 'train'.* cat_train, train, val;"):
        convert_voc(root, split="trian")


def test_classes_in_an_order_of_ones_own(tmp_path: Path):
    root = write_voc(tmp_path / "voc", {"a": thing("dog") + thing("cat")})
    done = convert_voc(root, classes=["dog", "ant"])
    assert done.classes == ("dog", "ant")
    assert [one["category_id"] for one in done.content["annotations"]] == [1]
    assert done.problems.count("class that is not listed") == 1
    assert "'cat', object 2 of a.xml" in str(done.problems)
    for classes in ([], ["dog", "dog"]):
        with pytest.raises(FovealError, match="give names, each once"):
            convert_voc(root, classes=classes)


FAULTS: dict[str, tuple[str, str]] = {
    "negative box": (thing(box=(20, 1, 10, 8)), "left out"),
    "box without area": (thing(box=(10, 1, 9, 8)), "left out"),
    "box outside the image": (thing(box=(41, 1, 50, 8)), "left out"),
    "box that is not finite": (thing(box=("nan", 1, 50, 8)), "left out"),
    "box partly outside the image": (thing(box=(30, 1, 50, 8)), "clipped"),
    "malformed annotation": ("<object><name>dog</name></object>", "left out"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faulty_objects_are_named(tmp_path: Path, kind: str):
    inner, outcome = FAULTS[kind]
    done = convert_voc(write_voc(tmp_path / "voc", {"a": thing() + inner}))
    assert [(p.kind, p.outcome, p.count) for p in done.problems.found] == [(kind, outcome, 1)]
    assert "object 2 of a.xml" in done.problems.found[0].examples[0]
    used = 2 if outcome == "clipped" else 1
    assert len(done.content["annotations"]) == used and done.problems.annotations == (2, used)


@pytest.mark.parametrize(
    "inner", [thing(""), thing(box=("left", 1, 2, 3)), thing(box=("", 1, 2, 3))]
)
def test_objects_without_name_or_numbers_are_malformed(tmp_path: Path, inner: str):
    done = convert_voc(write_voc(tmp_path / "voc", {"a": thing() + inner}))
    assert done.problems.count("malformed annotation") == 1


@pytest.mark.parametrize("text", [BOMB, STRANGER], ids=["bomb", "stranger"])
def test_document_types_are_refused_before_anything_is_expanded(tmp_path: Path, text: str):
    with pytest.raises(ValueError, match="document type"):
        parse_xml(text.encode())
    root = write_voc(tmp_path / "voc", {"a": thing()})
    (root / "Annotations" / "bad.xml").write_text(text)
    done = convert_voc(root)
    assert "bad.xml (it has a document type" in str(done.problems)
    assert len(done.content["images"]) == 1


@pytest.mark.parametrize("text", ["", "<annotation>", "no xml", "<a>&x;</a>", "<a/><b/>"])
def test_what_is_no_xml_is_named(tmp_path: Path, text: str):
    root = write_voc(tmp_path / "voc", {"a": thing()})
    (root / "Annotations" / "bad.xml").write_text(text)
    (root / "ImageSets" / "Main" / "all.txt").write_text("a\nbad\nmissing\n")
    problems = convert_voc(root, split="all").problems
    assert problems.count("unreadable annotation file") == 2 and problems.images == (3, 1)
    assert "bad.xml (no XML" in str(problems) and "missing.xml (there is no such" in str(problems)


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_sizes_that_are_not_told_are_the_pictures(tmp_path: Path, size: str):
    root = write_voc(tmp_path / "voc", {"a": thing(), "b": thing()}, size)
    (root / "JPEGImages" / "b.jpg").unlink()
    done = convert_voc(root)
    (image,) = done.content["images"]
    assert (image["width"], image["height"]) == (40, 30)
    assert "image of unknown size (b.xml)" in str(done.problems)


@pytest.mark.parametrize("said", ["C:\\me\\other.jpg", "a.JPEG", "", "../../a.jpg"])
def test_pictures_are_named_as_their_files(tmp_path: Path, said: str):
    root = write_voc(tmp_path / "voc", {"a": thing()})
    path = root / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("a.jpg", said))
    (image,) = convert_voc(root).content["images"]
    assert image["file_name"] == "a.jpg"


def test_xml_files_beside_their_pictures(tmp_path: Path):
    root = write_voc(tmp_path / "voc", {"a": thing()})
    flat = tmp_path / "flat"
    flat.mkdir()
    (root / "Annotations" / "a.xml").rename(flat / "a.xml")
    (root / "JPEGImages" / "a.jpg").rename(flat / "a.jpg")
    done = convert_voc(flat)
    assert json.loads(json.dumps(done.content))["images"][0]["file_name"] == "a.jpg"
    with pytest.raises(FovealError, match="holds no XML files"):
        convert_voc(root)
