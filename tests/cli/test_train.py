"""`foveal train`: results in a folder, resuming, replacing."""

import json
from pathlib import Path

import pytest
import yaml

from foveal.train.checkpoint import read_metadata
from tests.cli.conftest import SHORT, Foveal


def test_a_run_leaves_everything_that_its_use_needs(trained: Path):
    assert {path.name for path in trained.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "config.yaml",
        "metrics.jsonl",
        "state",
    }
    metadata = read_metadata(trained / "best.safetensors")
    assert metadata["model"] == "focalnet_tiny_srf"
    assert metadata["options"] == {"embed_dim": 16, "depths": [1, 1, 1, 1]}
    assert metadata["classes"] == ["blue", "green", "red"]
    assert metadata["preprocessing"]["image_size"] == 32
    assert metadata["metrics"]["top1"] == 100
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert (config["train"]["epochs"], config["train"]["lr"]) == (6, 3e-3)
    lines = (trained / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines if "epoch" in line] == list(range(1, 7))


def test_resume_goes_on_and_overwrite_begins_again(foveal: Foveal, folder: Path, tmp_path: Path):
    output = tmp_path / "run"
    command = ["train", *SHORT, "--data", folder, "--output", output]
    begun = foveal(*command, "--max-steps", 3)
    assert begun.code == 0 and "step 3/3: top1 " in begun.err and "epoch" not in begun.err
    again = foveal(*command)
    assert again.code == 2 and "in use" in again.err and "--resume" in again.err
    assert foveal(*command, "--resume", "--max_steps=6").code == 0
    assert read_metadata(output / "last.safetensors")["step"] == 6
    assert foveal(*command, "--overwrite", "--max-steps", 2).code == 0
    assert read_metadata(output / "last.safetensors")["step"] == 2


def test_resuming_something_else_is_refused(foveal: Foveal, folder: Path, trained: Path):
    command = ["train", "--model=focalnet_tiny_lrf", "--data", folder, "--output", trained]
    outcome = foveal(*command, "--resume")
    assert outcome.code == 2 and "model 'focalnet_tiny_srf', not 'focalnet_tiny_lrf'" in outcome.err


def test_a_run_of_whole_epochs_counts_them(foveal: Foveal, folder: Path, tmp_path: Path):
    command = ["train", *SHORT, "--epochs=1", "--data", folder, "--output", tmp_path / "run"]
    for flag in ("--overwrite", "--max-steps=3"):
        outcome = foveal(*command, "--overwrite", flag)
        assert "epoch 1/1: top1 " in outcome.err and "step 3/3" not in outcome.err


def test_two_spellings_of_a_path_are_the_same_data(
    foveal: Foveal, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(folder.parent)
    command = ["train", *SHORT, "--output", tmp_path / "run", "--resume"]
    assert foveal(*command, "--data", folder.name, "--max-steps=1").code == 0
    assert foveal(*command, "--data", folder, "--max-steps=2").code == 0
    monkeypatch.chdir(tmp_path)
    assert foveal(*command, f"--data={folder}/../{folder.name}", "--max-steps=3").code == 0
    other = foveal(*command, "--data", folder.parent, "--max-steps=4")
    assert other.code == 2 and "has data" in other.err


def test_a_failed_overwrite_keeps_the_earlier_run(foveal: Foveal, trained: Path):
    nowhere = trained / "nowhere"
    outcome = foveal("train", *SHORT, "--data", nowhere, "--output", trained, "--overwrite")
    assert outcome.code == 2 and (trained / "best.safetensors").exists()


def test_training_starts_from_a_checkpoint(
    foveal: Foveal, folder: Path, trained: Path, tmp_path: Path
):
    command = ["train", *SHORT, "--data", folder, "--output", tmp_path / "run"]
    outcome = foveal(*command, "--checkpoint", trained, "--max-steps", 1, "--lr", 1e-6)
    assert outcome.code == 0
    assert read_metadata(tmp_path / "run" / "last.safetensors")["metrics"]["top1"] == 100


def test_bad_images_are_skipped_as_told_and_named(foveal: Foveal, folder: Path, tmp_path: Path):
    bad = folder / "red" / "broken.png"
    bad.write_bytes(b"")
    try:
        command = ["train", *SHORT, "--data", folder, "--max-steps", 1]
        refused = foveal(*command, "--output", tmp_path / "a")
        skipped = foveal(*command, "--output", tmp_path / "b", "--on-bad-image", "skip")
    finally:
        bad.unlink()
    assert refused.code == 2 and str(bad) in refused.err
    assert skipped.code == 0 and "Left out 1 images" in skipped.err and str(bad) in skipped.err


def test_ctrl_c_leaves_what_was_saved(
    foveal: Foveal, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    output = tmp_path / "run"
    command = ["train", *SHORT, "--data", folder, "--output", output]
    with monkeypatch.context() as patch:
        patch.setattr("foveal.train.progress.TrainProgress.evaluation", interrupt)
        outcome = foveal(*command)
    assert outcome.code == 130 and "holds the newest state" in outcome.err
    assert outcome.err.count("topped") == 1 and "Traceback" not in outcome.err
    assert foveal(*command, "--resume").code == 0
    assert read_metadata(output / "last.safetensors")["epoch"] == 6


def test_a_batch_that_cannot_be_normalised_is_a_sentence(
    foveal: Foveal, folder: Path, tmp_path: Path
):
    command = ["train", "--model=cloformer_xxs", "--data", folder, "--output", tmp_path / "run"]
    outcome = foveal(*command, "--image-size=32", "--batch-size=1", "--workers=0", "--max-steps=1")
    assert outcome.code == 2 and "a batch size of 2 or more" in outcome.err
    assert "Traceback" not in outcome.err


def test_settings_come_from_recipe_file_and_flags_in_that_order(foveal: Foveal, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: small\nmodel: transnext_micro\ntrain: {lr: 0.5, epochs: 7}\n")
    outcome = foveal("train", "--config", file, "--epochs", 9, "--print_config", "--compile")
    assert outcome.code == 0
    config = yaml.safe_load(outcome.out)
    assert (config["model"], config["recipe"], config["image_size"]) == (
        "transnext_micro",
        "small",
        64,
    )
    train = config["train"]
    assert (train["lr"], train["epochs"], train["compile"], train["batch_size"]) == (
        0.5,
        9,
        True,
        256,
    )


def test_a_misspelt_key_of_a_file_is_refused(foveal: Foveal, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: transnext_micro\ntrain: {learning_rate: 0.5, epoch: 7}\n")
    outcome = foveal("train", "--config", file)
    assert outcome.code == 2 and "'train.learning_rate' that does not exist" in outcome.err
    file.write_text("model: transnext_micro\ntrain: {epoch: 7}\n")
    assert "Did you mean 'train.epochs'" in foveal("train", "--config", file).err


def test_the_written_configuration_starts_the_same_run(
    foveal: Foveal, trained: Path, tmp_path: Path
):
    outcome = foveal("train", "--config", trained / "config.yaml", "--output", tmp_path / "again")
    assert outcome.code == 0
    first, again = (
        yaml.safe_load((d / "config.yaml").read_text()) for d in (trained, tmp_path / "again")
    )
    assert first == again


def test_a_network_of_timm_is_trained_and_used(foveal: Foveal, folder: Path, tmp_path: Path):
    command = ["train", "--model=timm:mobilenetv3_small_050", "--image-size=32", "--workers=0"]
    run = ["--data", folder, "--output", tmp_path / "run", "--max-steps=2", "--batch-size=9"]
    assert foveal(*command, *run).code == 0
    outcome = foveal("eval", "--checkpoint", tmp_path / "run", "--data", folder)
    assert outcome.code == 0 and "top-1" in outcome.out


def test_the_row_named_by_a_flag_comes_before_a_files_options(foveal: Foveal, tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("model: cloformer_xxs\noptions: {}\n")
    row = "--model=transnext_road/pool"
    given = yaml.safe_load(foveal("train", "--config", file, row, "--print-config").out)
    alone = yaml.safe_load(foveal("train", row, "--print-config").out)
    assert given["options"] == alone["options"] and alone["options"]["step"] == "pool"
