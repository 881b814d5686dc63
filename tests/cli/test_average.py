"""`foveal average`: the mean of checkpoints is a checkpoint like any other."""

from pathlib import Path

from tests.cli.conftest import Foveal


def test_the_mean_can_be_judged(foveal: Foveal, trained: Path, folder: Path, tmp_path: Path):
    output = tmp_path / "mean.safetensors"
    files = [trained / "best.safetensors", trained / "last.safetensors"]
    outcome = foveal("average", *files, "--output", output)
    assert outcome.code == 0 and "mean of 2 checkpoints of focalnet_tiny_srf" in outcome.err
    judged = foveal("eval", "--checkpoint", output, "--data", folder, "--workers=0")
    assert judged.code == 0 and "top-1 100.00 %" in judged.out


def test_what_is_missing_is_named(foveal: Foveal, trained: Path, tmp_path: Path):
    needs = foveal("average", "--output", tmp_path / "mean.safetensors")
    assert needs.code == 2 and "needs CHECKPOINT" in needs.err
    alone = foveal("average", trained, "--output", tmp_path / "mean.safetensors")
    assert alone.code == 2 and "two checkpoints or more" in alone.err
