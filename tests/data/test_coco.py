"""COCO files: what is good comes through exactly, what is not is counted, named and left out."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foveal.data.box_checks import PARTLY_OUTSIDE, check_box
from foveal.data.coco import read_coco, read_detection_images, write_coco
from foveal.data.detection import AnnotatedImages
from foveal.errors import FovealError
from tests.data.coco_files import HEIGHT, POLYGON, WIDTH, annotation, content, write


def read(root: Path, given: Any, **options: Any) -> AnnotatedImages:
    return read_coco(*write(root, given), **options)


def test_what_is_good_comes_through(tmp_path: Path):
    given = content()
    given["annotations"].append(
        annotation(9, 1, category_id=3, iscrowd=1, area=None, bbox=[0, 0, WIDTH, HEIGHT])
    )
    found = read(tmp_path, given)
    assert found.classes == ("cell", "plate") and found.category_ids == (3, 7)
    assert not found.problems and str(found.problems).endswith("has no problems")
    assert found.problems.images == (3, 3) and found.problems.annotations == (3, 3)
    first, _, empty = found.images
    assert (first.image_id, first.size) == (1, (HEIGHT, WIDTH))
    assert first.boxes.tolist() == [[5, 5, 20.5, 18], [0, 0, WIDTH, HEIGHT]]
    assert first.labels.tolist() == [1, 0] and first.crowd.tolist() == [False, True]
    assert first.areas.tolist() == [200, WIDTH * HEIGHT], "of the box, where the file has none"
    assert empty.boxes.shape == (0, 4) and found.num_objects == 3


def test_labels_go_by_the_numbers_of_the_categories_in_any_order(tmp_path: Path):
    given = content()
    given["categories"].reverse()
    assert read(tmp_path, given).classes == ("cell", "plate")


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "negative box": ({"bbox": [5, 5, -3, 4]}, "annotation 50 in 1.png: [5, 5, -3, 4]"),
    "box without area": ({"bbox": [5, 5, 0, 4]}, "[5, 5, 0, 4]"),
    "box outside the image": ({"bbox": [WIDTH, 2, 5, 5]}, "[40, 2, 5, 5]"),
    "box that is not finite": ({"bbox": [math.nan, 2, 5, 5]}, "[nan, 2, 5, 5]"),
    "unknown category id": ({"category_id": 4}, "4 of annotation 50"),
    "unknown image id": ({"image_id": 12}, "12 of annotation 50"),
    "duplicate annotation id": ({"id": 1}, "1"),
    "malformed annotation": ({"bbox": [1, 2, "3", 4]}, "annotation 50 in 1.png"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_faulty_annotation_is_named_and_left_out(tmp_path: Path, kind: str):
    changes, named = FAULTS[kind]
    given = content()
    given["annotations"].append(annotation(**{"number": 50, **changes}))
    found = read(tmp_path, given)
    assert [(p.kind, p.outcome, p.count) for p in found.problems.found] == [(kind, "left out", 1)]
    assert named in found.problems.found[0].examples[0]
    assert found.num_objects == 2 and found.problems.annotations == (3, 2)
    with pytest.raises(FovealError, match=f"data.json has 1 problem: 1 × {kind}"):
        read(tmp_path, given, strict=True)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"id": True},
        {"image_id": "1"},
        {"category_id": 7.0},
        {"bbox": None},
        {"bbox": [1, 2, 3]},
        {"bbox": [1, 2, True, 4]},
        {"bbox": "1 2 3 4"},
        {"iscrowd": "no"},
        {"iscrowd": 2},
    ],
    ids=str,
)
def test_wrong_types_are_malformed(tmp_path: Path, changes: dict[str, Any]):
    given = content()
    given["annotations"].append({**annotation(50), **changes})
    assert read(tmp_path, given).problems.count("malformed annotation") == 1


@pytest.mark.parametrize("entry", [None, 3, "annotation", [1]])
def test_entries_that_are_no_objects(tmp_path: Path, entry: Any):
    given = content()
    given["annotations"].insert(0, entry)
    given["images"].insert(0, entry)
    found = read(tmp_path, given).problems
    assert found.count("malformed annotation") == found.count("malformed image entry") == 1
    assert found.images == (4, 3)


def test_a_box_partly_outside_is_clipped_and_counted(tmp_path: Path):
    given = content()
    given["annotations"] += [
        annotation(50, 3, bbox=[-4, 20, 10, 20]),
        annotation(51, 3, bbox=[-0.2, 20, 10, 10.3]),
    ]
    found = read(tmp_path, given)
    (problem,) = found.problems.found
    assert (problem.kind, problem.outcome, problem.count) == (PARTLY_OUTSIDE, "clipped", 1)
    assert "annotation 50" in problem.examples[0]
    clipped = found.images[2].boxes
    assert np.allclose(clipped, [[0, 20, 6, 30], [0, 20, 9.8, 30]]), "rounding is no fault"


@pytest.mark.parametrize(
    ("xywh", "inside"),
    [
        ([-4, 3, 10, 9], (0, 3, 6, 12)),
        ([4, -3, 10, 9], (4, 0, 14, 6)),
        ([35, 3, 10, 9], (35, 3, WIDTH, 12)),
        ([4, 25, 10, 9], (4, 25, 14, HEIGHT)),
    ],
)
def test_every_side_is_clipped(xywh: list[float], inside: tuple[float, ...]):
    assert check_box(xywh, (HEIGHT, WIDTH)) == (PARTLY_OUTSIDE, inside)


@given(
    xywh=st.lists(st.floats(-20, 60) | st.floats(width=32), min_size=4, max_size=4),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
@settings(max_examples=300, deadline=None)
def test_what_passes_has_an_area_inside_the_image(xywh: list[float], size: tuple[int, int]):
    fault, box = check_box(xywh, size)
    if fault in (None, PARTLY_OUTSIDE):
        left, top, right, bottom = np.array(box, np.float32).tolist()
        assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
        assert max(xywh[0], 0) == pytest.approx(left) and max(xywh[1], 0) == pytest.approx(top)


def test_huge_numbers_are_not_finite(tmp_path: Path):
    path, folder = write(tmp_path, content())
    text = path.read_text().replace("[5, 5, 15.5, 13]", f"[5, 5, 1{'0' * 400}, 13]", 1)
    path.write_text(text)
    assert read_coco(path, folder).problems.count("box that is not finite") == 1


def test_missing_and_damaged_pictures(tmp_path: Path):
    given = content(6)
    path, folder = write(tmp_path, given)
    (folder / "1.png").unlink()
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:60])
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(folder / "3.png")
    found = read_coco(path, folder)
    kinds = ["missing image file", "unreadable image", "image of another size"]
    assert [problem.kind for problem in found.problems.found] == kinds
    assert "3.png (40 × 31 pixels, 40 × 30 expected)" in str(found.problems)
    assert [image.image_id for image in found.images] == [4, 5, 6]
    assert found.problems.annotations == (5, 2), "those of such images go with them, unnamed"


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "4"},
        {"width": 0},
        {"height": 30.0},
        {"file_name": ""},
        {"file_name": "../1.png"},
        {"file_name": "/1.png"},
        {"file_name": "1.png\0"},
    ],
    ids=str,
)
def test_entries_of_images_of_the_wrong_kind(tmp_path: Path, changes: dict[str, Any]):
    given = content()
    path, folder = write(tmp_path, given)
    given["images"].append({**given["images"][0], "id": 4, **changes})
    path.write_text(json.dumps(given))
    assert read_coco(path, folder).problems.count("malformed image entry") == 1


def test_an_image_listed_twice_counts_once(tmp_path: Path):
    given = content()
    given["images"].append(given["images"][0])
    found = read(tmp_path, given)
    assert found.problems.count("duplicate image id") == 1
    assert [image.image_id for image in found.images] == [1, 2, 3] and found.num_objects == 2


def test_two_images_of_one_number_are_left_out_with_their_objects(tmp_path: Path):
    given = content()
    given["images"].append({**given["images"][0], "file_name": "other.png"})
    found = read(tmp_path, given)
    assert "duplicate image id (1 of other.png and 1.png)" in str(found.problems)
    assert [image.image_id for image in found.images] == [2, 3] and found.num_objects == 1


def test_many_faults_are_counted_and_the_first_named(tmp_path: Path):
    given = content()
    given["annotations"] += [annotation(n, bbox=[5, 5, 0, 0]) for n in range(50, 60)]
    (problem,) = read(tmp_path, given).problems.found
    assert problem.count == 10 and len(problem.examples) == 3
    assert "annotation 52" in str(problem) and str(problem).endswith(", …)")


STRUCTURE: list[tuple[str, str]] = [
    ("", "not whole JSON.*line 1"),
    ('{"images": [', "not whole JSON.*line 1, column 13"),
    ("[]", "no list of images and annotations and categories"),
    ('{"images": [], "annotations": {}, "categories": []}', "no list of annotations;"),
    ("[" * 100_000, "not a JSON file"),
]


@pytest.mark.parametrize(("text", "message"), STRUCTURE)
def test_what_is_no_coco_file(tmp_path: Path, text: str, message: str):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(FovealError, match=message):
        read_coco(path, tmp_path)


def test_bytes_that_are_no_text(tmp_path: Path):
    path = tmp_path / "broken.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FovealError, match="not a JSON file"):
        read_coco(path, tmp_path)
    with pytest.raises(FovealError, match=r"Cannot read .*none\.json"):
        read_coco(tmp_path / "none.json", tmp_path)
    with pytest.raises(FovealError, match=r"none is no folder"):
        read_coco(path, tmp_path / "none")


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([], "lists no categories"),
        ([{"id": 1}], "category 0 of the list"),
        ([{"id": "1", "name": "a"}], "category 0 of the list"),
        ([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}], "'a' and 'b' have the same id 1"),
    ],
)
def test_categories_have_to_be_right(tmp_path: Path, categories: Any, message: str):
    with pytest.raises(FovealError, match=message):
        read(tmp_path, {**content(), "categories": categories})


def test_nothing_left_to_learn_from(tmp_path: Path):
    path, folder = write(tmp_path, {**content(), "annotations": []})
    assert len(read_coco(path, folder)) == 3
    with pytest.raises(FovealError, match="has no object that can be used; annotate some"):
        read_detection_images(path, path, folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with pytest.raises(FovealError, match=r"no image that can be used.*3 × missing image file"):
        read_coco(path, elsewhere)


def turned(path: Path, orientation: int, stored: tuple[int, int]) -> None:
    """A picture with a bright left half as stored, and a camera's note."""
    image = Image.new("RGB", stored)
    image.paste("white", (0, 0, stored[0] // 2, stored[1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


@pytest.mark.parametrize("orientation", [3, 6])
def test_sizes_are_those_of_the_stored_picture(tmp_path: Path, orientation: int):
    path, folder = write(tmp_path, content())
    turned(folder / "1.png", orientation, (WIDTH, HEIGHT))
    found = read_coco(path, folder)
    picture = found.images[0].read()
    assert not found.problems and picture.size == (WIDTH, HEIGHT)
    assert picture.getpixel((0, HEIGHT - 1)) == (255, 255, 255)
    assert picture.getpixel((WIDTH - 1, 0)) == (0, 0, 0)


def test_sizes_of_the_upright_picture_turn_it(tmp_path: Path):
    path, folder = write(tmp_path, content())
    turned(folder / "1.png", 6, (HEIGHT, WIDTH))
    found = read_coco(path, folder)
    picture = found.images[0].read()
    assert not found.problems and found.images[0].upright and picture.size == (WIDTH, HEIGHT)
    assert picture.getpixel((0, 0)) == picture.getpixel((WIDTH - 1, 0)) == (255, 255, 255)
    turned(folder / "1.png", 3, (HEIGHT, WIDTH))
    assert read_coco(path, folder).problems.count("image of another size") == 1


def test_val_may_have_fewer_categories_and_its_labels_are_those_of_train(tmp_path: Path):
    train, folder = write(tmp_path, content(), "train.json")
    fewer = {**content(), "categories": content()["categories"][1:]}
    val, _ = write(tmp_path, fewer, "val.json")
    data = read_detection_images(train, val, folder)
    assert data.classes == data.val.classes == ("cell", "plate")
    assert data.val.images[0].labels.tolist() == data.train.images[0].labels.tolist() == [1]


def test_labels_among_more_classes(tmp_path: Path):
    fewer = {**content(), "categories": content()["categories"][1:]}
    read = read_coco(*write(tmp_path, fewer))
    wider = read.with_classes(("bowl", "plate", "cell"))
    assert read.images[0].labels.tolist() == [0] and wider.images[0].labels.tolist() == [1]
    assert wider.classes == ("bowl", "plate", "cell")
    # Numbers of its own stay, the others are new.
    assert wider.category_ids == (8, 7, 9)


@pytest.mark.parametrize(
    ("category", "message"),
    [
        ({"id": 7, "name": "dish"}, "7 'dish' and .*train.json has 'plate' there"),
        ({"id": 8, "name": "plate"}, "8 'plate' and .*train.json does not have it"),
    ],
)
def test_other_categories_in_val_are_refused(tmp_path: Path, category: Any, message: str):
    train, folder = write(tmp_path, content(), "train.json")
    given = {**content(), "categories": [category]}
    given["annotations"] = [annotation(1, category_id=category["id"])]
    val, _ = write(tmp_path, given, "val.json")
    with pytest.raises(FovealError, match=message):
        read_detection_images(train, val, folder)


def test_strict_names_the_problems_of_both_files_and_val_has_a_folder_of_its_own(tmp_path: Path):
    bad = content()
    bad["annotations"].append(annotation(50, bbox=[1, 1, -1, 1]))
    train, folder = write(tmp_path / "a", bad, "train.json")
    val, other = write(tmp_path / "b", bad, "val.json")
    (folder / "1.png").unlink()
    with pytest.raises(
        FovealError, match=r"train.json has 1 .*missing.*; .*val.json has 1 .*--str"
    ):
        read_detection_images(train, val, folder, val_images=other, strict=True)
    data = read_detection_images(train, val, folder, val_images=other)
    assert (len(data.train), len(data.val)) == (2, 3)


def test_masks_are_not_looked_at_unless_asked_for(tmp_path: Path):
    given = content()
    given["annotations"][0]["segmentation"] = "nonsense"
    assert not read(tmp_path, given).problems
    found = read(tmp_path, given, masks=None)
    assert found.problems.count("malformed mask") == found.problems.count("missing mask") == 1
    given["annotations"][0]["segmentation"] = []
    assert read(tmp_path, given, masks=None).images[0].masks is None


def test_written_files_are_read_again(tmp_path: Path):
    given = content()
    given["annotations"][0]["segmentation"] = POLYGON
    path, folder = write(tmp_path, given)
    write_coco(tmp_path / "again.json", given)
    first, again = read_coco(path, folder), read_coco(tmp_path / "again.json", folder)
    assert [i.boxes.tolist() for i in first.images] == [i.boxes.tolist() for i in again.images]
