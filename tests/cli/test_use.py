"""`foveal eval`, `predict`, `models`, `convert`: what is done with a finished model."""

import json
from pathlib import Path

import pytest
import torch

import foveal as library
from foveal.models.factory import list_models
from tests.cli.conftest import Foveal
from tests.pictures import picture, write_folder


def test_predictions_are_right(foveal: Foveal, trained: Path, tmp_path: Path):
    paths = [tmp_path / f"{name}.png" for name in ("red", "green", "blue")]
    for path in paths:
        picture(path.stem, 900, 60).save(path)
    outcome = foveal("predict", *paths, "--checkpoint", trained, "--json", tmp_path / "p.json")
    assert outcome.code == 0 and "UNTRAINED" not in outcome.err
    for path in paths:
        assert path.stem in outcome.out.split(str(path))[1].splitlines()[1]
    scores = json.loads((tmp_path / "p.json").read_text())[0]["scores"]
    assert scores[0]["name"] == "red" and len(scores) == 3
    file = foveal("predict", *paths, "--checkpoint", trained / "last.safetensors")
    assert file.code == 0


def test_without_best_the_last_is_used(foveal: Foveal, trained: Path, folder: Path, tmp_path: Path):
    (tmp_path / "last.safetensors").write_bytes((trained / "last.safetensors").read_bytes())
    image = folder / "red" / "000.png"
    assert foveal("predict", image, "--checkpoint", tmp_path).code == 0


def test_an_untrained_network_says_so(foveal: Foveal, folder: Path):
    image = folder / "red" / "000.png"
    outcome = foveal("predict", image, "--model", "efficientmod_xxs", "--image-size", 64)
    assert outcome.code == 0 and "UNTRAINED" in outcome.err
    assert len(outcome.out.splitlines()) == 6


def test_eval_judges_what_training_held_out(
    foveal: Foveal, trained: Path, folder: Path, tmp_path: Path
):
    held_out = foveal("eval", "--checkpoint", trained, "--data", folder, "--workers", 0)
    assert held_out.code == 0 and "3 images" in held_out.err and "held out" in held_out.err
    assert "top-1 100.00 %" in held_out.out
    elsewhere = write_folder(tmp_path / "elsewhere", 4, start=100)
    command = ["eval", "--checkpoint", trained, "--data", elsewhere, "--workers=0", "--json=-"]
    figures = json.loads(foveal(*command).out)
    assert (figures["num_images"], figures["top1"]) == (12, 100)
    assert [row["num_images"] for row in figures["per_class"]] == [4, 4, 4]


def test_eval_takes_val_and_refuses_unknown_classes(foveal: Foveal, trained: Path, tmp_path: Path):
    write_folder(tmp_path / "train", 2)
    write_folder(tmp_path / "val", 3)
    command = ["eval", "--checkpoint", trained, "--data", tmp_path, "--workers", 0, "--json", "-"]
    assert json.loads(foveal(*command).out)["num_images"] == 9
    assert json.loads(foveal(*command, "--split", "all").out)["num_images"] == 15
    (tmp_path / "train" / "red").rename(tmp_path / "train" / "white")
    outcome = foveal(*command)
    assert outcome.code == 2 and "'white'" in outcome.err


def test_models_are_listed(foveal: Foveal):
    rows = json.loads(foveal("models", "--json", "-").out)
    assert [row["name"] for row in rows] == list_models()
    tiny = next(row for row in rows if row["name"] == "focalnet_tiny_srf")
    assert (tiny["parameters_m"], tiny["input_size"], tiny["top1"]) == (28.43, 224, 82.1)
    assert tiny["downloads"] == ["in1k"]
    plain = foveal("models", "efficientmod")
    assert all(line.count("\t") == 4 for line in plain.out.splitlines())
    assert "no direct link" in plain.out


@pytest.mark.parametrize("num_classes", [7, 1000, 0])
def test_a_converted_file_predicts(foveal: Foveal, folder: Path, tmp_path: Path, num_classes: int):
    name = "efficientmod_xxs"
    model = library.create_model(name, num_classes=num_classes).eval()
    official = library.convert_state_dict(name, model.state_dict(), to_official=True)
    torch.save({"state_dict": official}, tmp_path / "official.pth")
    target = tmp_path / "ours.safetensors"
    command = ["convert", tmp_path / "official.pth", "--output", target, "--model"]
    assert foveal(*command, name).code == 0
    other = foveal(*command, "efficientmod_s")
    assert other.code == 2
    image = folder / "red" / "000.png"
    outcome = foveal("predict", image, "--checkpoint", target, "--json", "-")
    if num_classes == 0:
        assert outcome.code == 2 and "no classifier" in outcome.err
    else:
        assert len(json.loads(outcome.out)[0]["scores"]) == 5
        assert "UNTRAINED" not in outcome.err
