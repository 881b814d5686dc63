"""`foveal train`, `eval` and `predict` for detectors and segmenters, from data to pictures."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import load_file

from foveal.cli.main import main
from tests.cli.conftest import Foveal
from tests.data import coco_files
from tests.data.scenes import CLASSES, write_mask_folder
from tests.tasks.segmentation.small_segmenters import write_segmenter

SMALL = ["--model=focalnet_tiny_srf", "--option=embed_dim=16", "--option=depths=[1,1,1,1]"]
SHORT = ["--epochs=1", "--batch-size=2", "--workers=0", "--scales=[64]", "--log-every=1"]
HEAD = [
    "--head=fcos",
    "--head-option=fpn_channels=64",
    "--head-option=score_thresh=0.0",
    "--eval-scale=64",
    "--max-side=128",
]
DETECTION = ["--task=detection", *HEAD, *SMALL, *SHORT]
SEGMENTATION = [
    "--task=segmentation",
    "--head=semantic_fpn",
    *SMALL,
    *SHORT,
    "--crop=[64,64]",
]


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A COCO file and its pictures."""
    return coco_files.write(tmp_path_factory.mktemp("cells"), coco_files.content(5))


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mask folder."""
    return write_mask_folder(tmp_path_factory.mktemp("scenes"))


def of(cells: tuple[Path, Path]) -> list[str]:
    """The flags for training and judging on the same file."""
    data, images = map(str, cells)
    return ["--data", data, "--val-data", data, "--images", images]


@pytest.fixture(scope="module")
def detector(cells: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a short run."""
    output = tmp_path_factory.mktemp("detector") / "run"
    command = ["train", *DETECTION, *of(cells), "--epochs=15", "--lr=3e-3", "--hflip=0"]
    assert main([*command, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def segmenter(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a short run."""
    output = tmp_path_factory.mktemp("segmenter") / "run"
    assert main(["train", *SEGMENTATION, "--data", str(scenes), "--output", str(output)]) == 0
    return output


def test_a_detector_from_training_to_pictures(
    foveal: Foveal, cells: tuple[Path, Path], detector: Path, tmp_path: Path
) -> None:
    data, images = cells
    settings = yaml.safe_load((detector / "config.yaml").read_text())
    assert settings["head"] == "fcos" and settings["recipe"] == "objects"
    assert settings["augmentation"]["scales"] == [64]
    page, found = tmp_path / "page.html", tmp_path / "found"
    judged = foveal(
        "eval", "--task", "detection", "--checkpoint", detector, "--data", data,
        "--images", images, "--json", tmp_path / "a.json", "--report", page,
        "--detections", found,
    )  # fmt: skip
    assert judged.code == 0, judged.err
    assert judged.out.splitlines()[0].startswith("\tmAP")
    figures = json.loads((tmp_path / "a.json").read_text())
    # The same figures as at the end of training, through another process of judging.
    last = [json.loads(line) for line in (detector / "metrics.jsonl").read_text().splitlines()][-1]
    assert figures["boxes"]["map"] == pytest.approx(last["map"], abs=1e-9)
    assert figures["boxes"]["mar_100"] > 0
    assert "<img" in page.read_text() and (found / "detections.json").exists()
    picture = images / "1.png"
    shown = foveal(
        "predict", picture, "--task", "detection", "--checkpoint", detector,
        "--threshold", 0.001, "--output", tmp_path / "drawn", "--json", "-",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    (one,) = json.loads(shown.out)
    assert len(one["boxes"]) == len(one["names"]) > 0
    with Image.open(tmp_path / "drawn" / "1.jpg") as drawn:
        assert max(drawn.size) >= max(one["size"])


def test_a_segmenter_from_training_to_pictures(
    foveal: Foveal, scenes: Path, segmenter: Path, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    command = ["eval", "--task", "segmentation", "--checkpoint", segmenter, "--data", scenes]
    judged = foveal(*command, "--json", tmp_path / "a.json", "--report", page)
    assert judged.code == 0, judged.err
    figures = json.loads((tmp_path / "a.json").read_text())
    last = [json.loads(line) for line in (segmenter / "metrics.jsonl").read_text().splitlines()][-1]
    assert figures["miou"] == pytest.approx(last["miou"])
    assert "<img" in page.read_text()
    looks = foveal(*command, "--window", 32, "--scales", "0.75,1", "--flip", "--json", "-")
    assert looks.code == 0 and json.loads(looks.out)["miou"] >= 0
    picture = scenes / "images" / "val" / "000.png"
    shown = foveal(
        "predict", picture, "--task", "segmentation", "--checkpoint", segmenter,
        "--output", tmp_path / "drawn",
    )  # fmt: skip
    assert shown.code == 0, shown.err
    with Image.open(tmp_path / "drawn" / "000.png") as labels, Image.open(picture) as seen:
        assert labels.mode == "P" and labels.size == seen.size
        counts = np.bincount(np.asarray(labels).reshape(-1), minlength=len(CLASSES))
    shares = {
        line.split()[2]: float(line.split()[0])
        for line in shown.out.splitlines()[1:]
    }  # fmt: skip
    for name, count in zip(CLASSES, counts, strict=True):
        assert shares.get(name, 0.0) == pytest.approx(100 * count / counts.sum(), abs=0.06)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    foveal: Foveal, cells: tuple[Path, Path], tmp_path: Path
) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    command = ["train", *DETECTION, *of(cells), "--epochs=2"]
    assert foveal(*command, "--output", whole).code == 0
    assert foveal(*command, "--output", halves, "--max-steps=2", "--schedule=steps").code == 0
    went_on = foveal(*command, "--output", halves, "--resume")
    assert went_on.code == 0, went_on.err
    assert set(load_file(whole / "last.safetensors")) == set(load_file(halves / "last.safetensors"))
    other = foveal(*command, "--output", halves, "--resume", "--head=retinanet")
    assert other.code == 2 and "has head 'fcos', not 'retinanet'" in other.err


def test_a_saved_detector_loads_in_another_process_with_equal_outputs(
    foveal: Foveal, cells: tuple[Path, Path], detector: Path
) -> None:
    command = [
        "predict", str(cells[1] / "2.png"), "--task", "detection",
        "--checkpoint", str(detector), "--threshold", "0", "--json", "-",
    ]  # fmt: skip
    here = json.loads(foveal(*command).out)
    there = subprocess.run(
        [sys.executable, "-m", "foveal.cli.main", *command],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(there.stdout)[0]["scores"] == pytest.approx(here[0]["scores"])


def test_annotations_with_a_part_of_the_classes_are_judged_by(
    foveal: Foveal, detector: Path, tmp_path: Path
) -> None:
    fewer = coco_files.content(5)
    fewer["categories"] = fewer["categories"][1:]
    data, images = coco_files.write(tmp_path / "fewer", fewer)
    command = ["eval", "--task", "detection", "--checkpoint", detector, "--images", images]
    judged = foveal(*command, "--data", data, "--json", "-", "--detections", tmp_path / "found")
    assert judged.code == 0, judged.err
    of_class = {entry["name"]: entry for entry in json.loads(judged.out)["per_class"]}
    assert of_class["plate"]["num_objects"] == 4 and of_class["cell"]["num_objects"] == 0
    found = json.loads((tmp_path / "found" / "detections.json").read_text())
    assert 7 in {one["category_id"] for one in found}
    other = {**fewer, "categories": [{"id": 7, "name": "dish"}]}
    data, images = coco_files.write(tmp_path / "other", other)
    refused = foveal(*command, "--data", data)
    assert refused.code == 2 and "objects of dish, which the detector does not know" in refused.err


def test_the_box_is_a_start(foveal: Foveal, scenes: Path, tmp_path: Path) -> None:
    given = ["--task=segmentation", "--head=semantic_fpn", *SHORT, "--crop=[64,64]"]
    run = foveal(
        "train", *given, "--model=efficientmod_xxs", "--checkpoint=box", "--max-steps=1",
        "--data", scenes, "--output", tmp_path / "run", "--frozen-stages=1", "--frozen-norms",
    )  # fmt: skip
    assert run.code == 0, run.err
    from foveal.tools.box import BOX

    boxed, kept = load_file(BOX), load_file(tmp_path / "run" / "last.safetensors")
    (prefix,) = {k.split("stem.proj.weight")[0] for k in kept if k.endswith("stem.proj.weight")}
    np.testing.assert_array_equal(
        kept[prefix + "stem.proj.weight"], boxed["stem.proj.weight"].float()
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", "detecton"], "There is no task 'detecton'. Did you mean 'detection'"),
        (["--task", "detection"], "needs --head"),
        (["--task", "detection", "--head", "fcos"], "needs --model"),
        ([*DETECTION, "--output=x", "--head=fcs"], "no detection head 'fcs'. Did you mean 'fcos'"),
        ([*SEGMENTATION, "--output=x", "--head=fpn"], "no segmentation head 'fpn'"),
        ([*DETECTION, "--output=x"], "give --data FILE, --val-data FILE and --images DIR"),
        ([*SEGMENTATION, "--output=x"], "trained on a mask folder; give --data DIR"),
        ([*DETECTION, "--recipe=coco_2x"], "no recipe 'coco_2x'. Did you mean 'coco_"),
        ([*DETECTION, "--schedule=line"], "--schedule takes one of cosine, steps, poly"),
        ([*DETECTION, "--lr-steps=[0.9,0.1]"], "lr_steps is rising shares"),
        (["--task", "classification", "--head", "fcos"], "has no option --head"),
    ],
)
def test_wrong_input(
    foveal: Foveal, arguments: list[str], sentence: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    outcome = foveal("train", *arguments)
    assert outcome.code == 2 and sentence in outcome.err, outcome.err
    assert outcome.err.count("\n") == 1


def test_checkpoints_of_another_task_are_refused(
    foveal: Foveal, trained: Path, detector: Path, cells: tuple[Path, Path]
) -> None:
    picture = cells[1] / "1.png"
    outcome = foveal("predict", picture, "--task", "segmentation", "--checkpoint", detector)
    assert outcome.code == 2 and "holds a network for detection" in outcome.err
    outcome = foveal("predict", picture, "--task", "detection", "--checkpoint", trained)
    assert outcome.code == 2 and "no detector's or segmenter's" in outcome.err
    outcome = foveal("predict", picture, "--checkpoint", detector)
    assert outcome.code == 2 and "--task detection" in outcome.err


def test_a_whole_detector_is_no_backbone(
    foveal: Foveal, detector: Path, cells: tuple[Path, Path], tmp_path: Path
) -> None:
    command = ["train", *DETECTION, *of(cells), "--output", tmp_path / "run"]
    outcome = foveal(*command, "--checkpoint", detector)
    assert outcome.code == 2 and "takes a backbone's weights" in outcome.err


def test_given_pictures_are_never_written_over(
    foveal: Foveal, detector: Path, segmenter: Path, cells: tuple[Path, Path], tmp_path: Path
) -> None:
    picture = tmp_path / "one.jpg"
    Image.open(cells[1] / "1.png").convert("RGB").save(picture)
    (labels := tmp_path / "two.png").write_bytes((cells[1] / "1.png").read_bytes())
    before = picture.read_bytes(), labels.read_bytes()
    for task, model, given in (
        ("detection", detector, picture),
        ("segmentation", segmenter, picture),
        ("segmentation", segmenter, labels),
    ):
        command = ["predict", given, "--task", task, "--checkpoint", model]
        outcome = foveal(*command, "--output", tmp_path)
        assert outcome.code == 2 and "one of the images" in outcome.err, outcome.err
    assert (picture.read_bytes(), labels.read_bytes()) == before
    outcome = foveal(
        "predict", labels, "--task=detection", "--checkpoint", detector, "--output", tmp_path
    )
    assert outcome.code == 0 and "1 picture in" in outcome.err


def test_what_cannot_be_judged_or_written_is_said_before_any_work(
    foveal: Foveal, detector: Path, cells: tuple[Path, Path], tmp_path: Path
) -> None:
    data, images = cells
    command = ["eval", "--task=detection", "--checkpoint", detector, "--data", data]
    outcome = foveal(*command)
    assert outcome.code == 2 and "needs --images;" in outcome.err
    (tmp_path / "file").touch()
    outcome = foveal(*command, "--images", images, "--detections", tmp_path / "file")
    assert outcome.code == 2 and "Cannot write" in outcome.err and not outcome.out


def test_other_spellings_of_both_annotation_files_go_on(
    foveal: Foveal, cells: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, images = cells
    monkeypatch.chdir(data.parent)
    command = ["train", *DETECTION, "--output", tmp_path / "run", "--resume"]
    near = ["--data", data.name, "--val-data", data.name, "--images", images.name]
    assert foveal(*command, *near, "--max-steps=1").code == 0
    outcome = foveal(*command, *of(cells), "--max-steps=2")
    assert outcome.code == 0, outcome.err
    outcome = foveal(*command, *of(cells), "--images", tmp_path, "--max-steps=3")
    assert outcome.code == 2 and "has data" in outcome.err


def test_help_of_a_task_has_its_flags(foveal: Foveal) -> None:
    assert "--val-data" in foveal("train", "--task", "detection", "--help").out
    assert "--val-data" not in foveal("train", "--help").out
    assert "--window" in foveal("eval", "--task=segmentation", "--help").out


def test_modes_of_transnext_side_by_side(foveal: Foveal, scenes: Path, tmp_path: Path) -> None:
    """The rows are what each --option gives alone, and they differ."""
    run = write_segmenter(tmp_path, "transnext_micro", pretrain_size=16)
    command = ["eval", "--task=segmentation", "--checkpoint", run, "--data", scenes]
    both = foveal(*command, "--modes", "--json", tmp_path / "modes.json")
    assert both.code == 0, both.err
    table = [line.split("\t") for line in both.out.splitlines()]
    assert table[0] == ["mode", "mIoU", "mAcc", "aAcc"]
    assert [row[0] for row in table[1:]] == ["extrapolated", "interpolated"]
    rows = json.loads((tmp_path / "modes.json").read_text())["modes"]
    for row, shown, mode in zip(rows, table[1:], ("extrapolate", "interpolate"), strict=True):
        alone = foveal(*command, f"--option=position_bias={mode}", "--json", "-")
        figures = json.loads(alone.out)
        assert [row[key] for key in ("miou", "macc", "aacc")] == pytest.approx(
            [figures[key] for key in ("miou", "macc", "aacc")]
        )
        assert shown[1:] == [f"{row[key]:.2f}" for key in ("miou", "macc", "aacc")]
        assert row["num_images"] == len(figures["images"]) == 2
    assert rows[0]["miou"] != rows[1]["miou"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--report=page.html"], "--modes gives a table and no page"),
        (["--option=position_bias=interpolate"], "--modes sets position_bias itself"),
        ([], "focalnet_tiny_srf meets every size in one way"),
    ],
)
def test_modes_only_where_there_are_some(
    foveal: Foveal, segmenter: Path, scenes: Path, flags: list[str], sentence: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    command = ["eval", "--task=segmentation", "--checkpoint", segmenter, "--data", scenes]
    outcome = foveal(*command, "--modes", *flags)
    assert outcome.code == 2 and sentence in outcome.err, outcome.err
