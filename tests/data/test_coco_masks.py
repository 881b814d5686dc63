"""Masks of COCO files: pixel for pixel those of pycocotools, and no run length is trusted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as yardstick
from pycocotools.coco import COCO

from foveal.data.coco import read_coco
from foveal.data.coco_masks import MaskFault, decode_masks, encode_segmentation, mask_areas
from foveal.errors import FovealError
from tests.data.coco_files import HEIGHT, POLYGON, WIDTH, annotation, content, write

SIZE = (HEIGHT, WIDTH)
PIXELS = HEIGHT * WIDTH
TWO_PARTS = [[1.5, 2, 10, 3.2, 8, 12.7], [20, 20, 39, 20, 30, 29.5, 20, 28]]
PLAIN = {"size": [HEIGHT, WIDTH], "counts": [31, 5, 25, 6, PIXELS - 67]}
COMPRESSED = {
    "size": [HEIGHT, WIDTH],
    "counts": yardstick.frPyObjects(PLAIN, *SIZE)["counts"].decode(),
}


def one_mask(segmentation: Any) -> np.ndarray:
    return decode_masks([encode_segmentation(segmentation, SIZE)], SIZE)[0]


def theirs(segmentation: Any, size: tuple[int, int] = SIZE) -> np.ndarray:
    """The mask as pycocotools draws it."""
    if isinstance(segmentation, list):
        return yardstick.decode(yardstick.merge(yardstick.frPyObjects(segmentation, *size)))
    if isinstance(segmentation["counts"], list):
        segmentation = yardstick.frPyObjects(segmentation, *size)
    return yardstick.decode(segmentation)


@pytest.mark.parametrize("segmentation", [POLYGON, TWO_PARTS, PLAIN, COMPRESSED], ids=str)
def test_masks_are_those_of_pycocotools(segmentation: Any):
    mask = one_mask(segmentation)
    assert mask.dtype == np.uint8 and 0 < mask.sum() < PIXELS
    assert np.array_equal(mask, theirs(segmentation))


@given(
    st.lists(
        st.lists(st.floats(-HEIGHT, 2 * HEIGHT), min_size=3, max_size=8).flatmap(
            lambda xs: st.lists(
                st.floats(-HEIGHT, 2 * HEIGHT), min_size=len(xs), max_size=len(xs)
            ).map(lambda ys: [value for point in zip(xs, ys, strict=True) for value in point])
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_polygons(polygons: list[list[float]]):
    expected = theirs(polygons)
    if expected.any():
        assert np.array_equal(one_mask(polygons), expected)
    else:
        with pytest.raises(MaskFault, match="mask without a pixel"):
            one_mask(polygons)


@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.01, 0.3, 0.5, 0.99, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_run_lengths_there_and_back(size: tuple[int, int], seed: int, share: float):
    mask = (np.random.default_rng(seed).random(size) < share).astype(np.uint8)
    letters = yardstick.encode(np.asfortranarray(mask))["counts"]
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    plain = np.diff([0, *edges, flat.size]).tolist()
    for counts in (letters.decode(), plain):
        segmentation = {"size": list(size), "counts": counts}
        if not mask.any():
            with pytest.raises(MaskFault, match="without a pixel"):
                encode_segmentation(segmentation, size)
            continue
        kept = encode_segmentation(segmentation, size)
        assert kept == letters
        assert np.array_equal(decode_masks([kept, kept], size), [mask, mask])
        assert mask_areas([kept], size) == [mask.sum()]


def test_large_masks_need_long_numbers():
    mask = np.zeros((3000, 2000), np.uint8)
    mask[5:2990, 3:1990] = 1
    letters = yardstick.encode(np.asfortranarray(mask))["counts"]
    kept = encode_segmentation({"size": [3000, 2000], "counts": letters.decode()}, (3000, 2000))
    assert kept == letters


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
@settings(max_examples=300, deadline=None)
def test_letters_that_are_no_run_lengths_never_reach_the_library(counts: str):
    size = (3, 4)
    try:
        kept = encode_segmentation({"size": [3, 4], "counts": counts}, size)
    except MaskFault:
        return
    assert decode_masks([kept], size).shape == (1, 3, 4)


MALFORMED: list[Any] = [
    "polygon",
    7,
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    [[1, 2, 3, 4]],
    [[1, 2, 3, 4, 5, 6, 7]],
    [[1, 2, 3, 4, 5, "6"]],
    [[1, 2, 3, 4, 5, None]],
    [[1, 2, 3, 4, 5, [6]]],
    [[True, False, True, True, False, True]],
    [[1, 2, 3, 4, 5, float("nan")]],
    [[1, 2, 3, 4, 5, 10**30]],
    [[1, 2, 3, 4, 5, 10**400]],
    [[1, 2, 3, 4, 5, 1e9]],
    [POLYGON[0], []],
    {"size": list(SIZE)},
    {"counts": [PIXELS]},
    {"size": [HEIGHT], "counts": [5, PIXELS - 5]},
    {"size": list(SIZE), "counts": [5, PIXELS - 4]},
    {"size": list(SIZE), "counts": [PIXELS + 5, -5]},
    {"size": list(SIZE), "counts": [0.5, PIXELS - 0.5]},
    {"size": list(SIZE), "counts": []},
    {"size": list(SIZE), "counts": "oooooooooooooooo"},
    {"size": list(SIZE), "counts": "~"},
    {"size": list(SIZE), "counts": "é"},
    {"size": list(SIZE), "counts": COMPRESSED["counts"][:-1]},
]


@pytest.mark.parametrize("segmentation", MALFORMED, ids=lambda value: str(value)[:60])
def test_what_is_no_mask(segmentation: Any):
    with pytest.raises(MaskFault, match="malformed mask"):
        encode_segmentation(segmentation, SIZE)


KINDS: list[tuple[str, Any]] = [
    ("malformed mask", [[1, 2, 3, 4]]),
    ("mask of another size than the image", {"size": [WIDTH, HEIGHT], "counts": [0, PIXELS]}),
    ("mask without a pixel", {"size": list(SIZE), "counts": [PIXELS]}),
    ("mask without a pixel", [[1.2, 1.2, 1.3, 1.2, 1.3, 1.3]]),
    ("missing mask", []),
    ("missing mask", None),
]


@pytest.mark.parametrize(("kind", "segmentation"), KINDS, ids=lambda value: str(value)[:40])
def test_objects_with_faulty_masks_are_named_and_left_out(
    tmp_path: Path, kind: str, segmentation: Any
):
    data = content()
    for entry in data["annotations"]:
        entry["segmentation"] = POLYGON
    data["annotations"].append(annotation(50, segmentation=segmentation))
    path, folder = write(tmp_path, data)
    found = read_coco(path, folder, masks=True)
    assert [(p.kind, p.count) for p in found.problems.found] == [(kind, 1)]
    assert "annotation 50 in 1.png" in found.problems.found[0].examples
    assert found.num_objects == 2
    with pytest.raises(FovealError, match=kind):
        read_coco(path, folder, masks=None, strict=True)


def test_every_mask_of_a_file_is_pycocotools(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data = content(4)
    kinds = [POLYGON, TWO_PARTS, PLAIN]
    for entry, segmentation in zip(data["annotations"], kinds, strict=True):
        entry["segmentation"] = segmentation
    data["annotations"].append(annotation(9, 1, segmentation=COMPRESSED, iscrowd=1, area=None))
    path, folder = write(tmp_path, data)
    found = read_coco(path, folder, masks=True)
    judge = COCO(path)
    for image in found.images:
        entries = judge.loadAnns(judge.getAnnIds(imgIds=[image.image_id]))
        expected = np.array([judge.annToMask(entry) for entry in entries]).reshape(-1, *SIZE)
        assert image.masks is not None
        assert np.array_equal(decode_masks(image.masks, image.size), expected)
    assert found.images[0].areas.tolist() == [200, 11], "of the mask, where the file has none"
    assert found.images[3].masks == ()
    assert json.loads(path.read_text())["annotations"][0]["segmentation"] == POLYGON
