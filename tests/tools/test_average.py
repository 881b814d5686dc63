"""The mean of checkpoints."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foveal.errors import CheckpointError, FovealError
from foveal.models.backbone import Backbone
from foveal.tools.average import average_checkpoints
from foveal.tools.trained import card_of, load_trained
from foveal.train.checkpoint import read_metadata, write_weights
from tests.models.small_models import SHALLOW, small_focalnet

NAME = "focalnet_tiny_srf"


def write(path: Path, model: Backbone, **extra: torch.Tensor) -> Path:
    options = {**SHALLOW, "depths": [1, 1, 1, 1]}
    card = card_of(model, NAME, options, image_size=32)
    write_weights(
        path, {**model.state_dict(), **extra}, {**card.to_metadata(), "metrics": {"a": 1}}
    )
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three checkpoints of one network with different weights."""
    return [write(tmp_path / f"{seed}.safetensors", small_focalnet(seed)) for seed in range(3)]


def test_every_parameter_is_the_mean(files: list[Path], tmp_path: Path):
    done = average_checkpoints(files, tmp_path / "mean.safetensors")
    mean = load_trained(done.output).model.state_dict()
    parts = [load_trained(file).model.state_dict() for file in files]
    for key, value in mean.items():
        expected = torch.stack([part[key].double() for part in parts]).sum(0) / 3
        torch.testing.assert_close(value, expected.to(value.dtype), rtol=0, atol=0)
    assert (done.num_averaged, done.num_copied) == (len(mean), 0)
    metadata = read_metadata(done.output)
    assert metadata["metrics"] == {} and metadata["averaged"] == [str(file) for file in files]


def test_sums_do_not_overflow_and_counters_are_the_last(tmp_path: Path):
    model = small_focalnet()
    large = torch.full((2,), 60_000.0, dtype=torch.float16)
    files = [
        write(tmp_path / f"{i}.safetensors", model, large=large, steps=torch.tensor(i))
        for i in range(4)
    ]
    done = average_checkpoints(files, tmp_path / "mean.safetensors")
    mean = load_file(done.output)
    assert torch.equal(mean["large"], large) and mean["steps"].item() == 3
    assert done.num_copied == 1


def test_different_networks_are_refused(files: list[Path], tmp_path: Path):
    output = tmp_path / "mean.safetensors"
    other = small_focalnet(num_classes=7)
    more = write(tmp_path / "more.safetensors", small_focalnet(), extra=torch.zeros(1))
    cases = [
        ([files[0], write(tmp_path / "7.safetensors", other)], "10 and 7 classes"),
        ([files[0], more], "different tensors .extra"),
        ([files[0]], "two checkpoints or more, got 1"),
        ([files[0], tmp_path / "none"], "There is no checkpoint"),
    ]
    for chosen, words in cases:
        with pytest.raises(FovealError, match=words):
            average_checkpoints(chosen, output)
    with pytest.raises(FovealError, match=r"a \.safetensors file"):
        average_checkpoints(files, tmp_path / "mean.pth")
    torch.save({}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="does not say which model"):
        average_checkpoints([files[0], tmp_path / "foreign.pth"], output)
    assert not output.exists()
