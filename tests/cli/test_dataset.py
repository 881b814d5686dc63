"""`foveal dataset`: problems are shown, `--strict` refuses them, and VOC is converted."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Foveal
from tests.data.coco_files import POLYGON, annotation, content, write
from tests.data.test_voc import thing, write_voc


@pytest.fixture
def good(tmp_path: Path) -> list[str]:
    path, folder = write(tmp_path, content())
    return ["--data", str(path), "--images", str(folder)]


@pytest.fixture
def bad(tmp_path: Path) -> list[str]:
    data = content()
    data["annotations"] += [
        annotation(50, bbox=[1, 1, -1, 1], segmentation=POLYGON),
        annotation(51, bbox=[-5, 1, 20, 10], segmentation=[[1]]),
    ]
    path, folder = write(tmp_path, data)
    return ["--data", str(path), "--images", str(folder), "--boxes"]


def test_a_good_file_is_said_to_be_good(foveal: Foveal, good: list[str]):
    outcome = foveal("dataset", "check", *good, "--strict")
    assert outcome.code == 0 and outcome.out == ""
    assert "3 of 3 images and 2 of 2 annotations can be used, 2 classes, no problems" in outcome.err


def test_problems_are_a_table(foveal: Foveal, bad: list[str], tmp_path: Path):
    outcome = foveal("dataset", "check", *bad, "--csv", tmp_path / "out.csv")
    assert outcome.code == 0 and "3 of 4 annotations can be used" in outcome.err
    header, *rows = [line.split("\t") for line in outcome.out.splitlines()]
    assert header == ["problem", "outcome", "examples", "count"]
    assert [row[:2] + row[3:] for row in rows] == [
        ["negative box", "left out", "1"],
        ["box partly outside the image", "clipped", "1"],
    ]
    assert "annotation 50 in 1.png: [1, 1, -1, 1]" in rows[0][2]
    assert "annotation 51" in (tmp_path / "out.csv").read_text()


def test_masks_are_looked_at_where_there_are_any(foveal: Foveal, bad: list[str]):
    outcome = foveal("dataset", "check", *bad[:-1], "--json", "-")
    kinds = {found["kind"]: found["count"] for found in json.loads(outcome.out)["found"]}
    assert kinds == {"negative box": 1, "malformed mask": 1, "missing mask": 2}


def test_strict_refuses_in_one_sentence(foveal: Foveal, bad: list[str]):
    outcome = foveal("dataset", "check", *bad, "--strict")
    assert outcome.code == 2 and "negative box\t" in outcome.out
    assert outcome.err.splitlines()[-1].startswith("foveal: ") and "2 problems" in outcome.err


def test_voc_becomes_a_coco_file_that_checks(foveal: Foveal, tmp_path: Path):
    root = write_voc(tmp_path / "voc", {"a": thing("dog"), "b": thing("cat", (0, 0, 9, 9))})
    output = tmp_path / "made" / "train.json"
    command = ["dataset", "voc", root, "--output", output]
    outcome = foveal(*command, "--classes", "dog,cat", "--first-pixel", "0")
    assert outcome.code == 0 and f"Wrote {output}" in outcome.err
    made = json.loads(output.read_text())
    assert [category["name"] for category in made["categories"]] == ["dog", "cat"]
    assert [one["bbox"] for one in made["annotations"]] == [[1, 1, 9, 7], [0, 0, 9, 9]]
    checked = foveal("dataset", "check", "--data", output, "--images", root / "JPEGImages")
    assert checked.code == 0 and "no problems" in checked.err
    output.unlink()
    refused = foveal(*command, "--strict")
    assert refused.code == 2 and "box partly outside the image" in refused.err
    assert not output.exists()


WRONG = [
    (["chek"], ["no kind 'chek'", "'check'", "voc"]),
    ([], ["foveal dataset needs KIND"]),
    (["voc"], ["needs SOURCE, --output"]),
    (["check", "--images", "x"], ["needs --data"]),
    (["check", "--data", "x", "--images", "x", "--first-pixel", "0"], ["not take --first-pixel"]),
    (["voc", "x", "--output", "y", "--first-pixel", "2"], ["--first-pixel takes one of 0, 1"]),
    (["voc", "x", "--output", "y", "--difficult", "no"], ["one of crowd, keep, drop"]),
    (["voc", "/nowhere", "--output", "y.json"], ["holds no XML files"]),
    (["voc", "x", "--output", "y.txt"], ["named *.json", "y.txt"]),
    (["check", "--data", "/nowhere", "--images", "."], ["Cannot read /nowhere"]),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=str)
def test_wrong_arguments_are_a_sentence(foveal: Foveal, arguments: list[str], said: list[str]):
    outcome = foveal("dataset", *arguments)
    assert outcome.code == 2 and outcome.err.count("\n") == 1
    for words in said:
        assert words in outcome.err
