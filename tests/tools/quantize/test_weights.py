"""Weights of 8 bits through torchao: the file, how it is opened, and what it stands for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foveal.tools.quantize.options import QuantizeOptions
from foveal.tools.quantize.run import quantize_model
from foveal.tools.quantize.weight_only import WeightQuantizer, load_quantized, rounded
from foveal.tools.quantize.weights import in_float, product
from foveal.tools.trained import ModelCard, TrainedModel, load_trained
from tests.models.families import SHALLOW, SMALLEST, shallow
from tests.tools.quantize.networks import (
    CLASSES,
    PREPROCESSING,
    inputs,
    judged_by,
    network,
    pictures,
)

pytest.importorskip("torchao")

CALIBRATION = inputs(pictures(8, seed=3)).numpy()


def test_rows_are_rounded_on_their_own() -> None:
    weight = torch.randn(6, 3, 5, 5) * torch.logspace(-3, 3, 6)[:, None, None, None]
    integers, scale = rounded(weight)
    assert integers.dtype == torch.int8 and integers.shape == weight.shape
    assert scale.shape == (6,)
    error = (product(integers, scale) - weight).abs().flatten(1).amax(1)
    # Half a step of the row's own scale, where one scale for all would lose the small rows.
    assert (error <= 0.51 * scale).all() and (error / weight.abs().flatten(1).amax(1) < 5e-3).all()


def test_a_file_and_both_ways_to_open_it(tmp_path: Path) -> None:
    trained = network()
    images = judged_by(trained)
    before = {name: value.clone() for name, value in trained.model.state_dict().items()}
    target = tmp_path / "a.safetensors"
    options = QuantizeOptions(format="torchao", rank_layers=True)
    report = quantize_model(trained, target, CALIBRATION, options, images)
    stored = load_file(target)
    assert stored["stages.1.downsample.proj.weight"].dtype == torch.int8
    assert all(stored[f"{name}.weight"].dtype == torch.int8 for name in report.layers)
    assert report.share_before_exceptions <= 0.30 and report.calibration_images == 0
    assert len(report.ranking) == len(report.layers)
    # The network itself is as it was.
    after = trained.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    given = inputs(pictures(40, seed=2))
    with torch.inference_mode():
        small, plain = (load(target).model(given) for load in (load_quantized, load_trained))
        original = trained.model(given)
    torch.testing.assert_close(small, plain)
    assert not torch.equal(plain, original)
    assert (plain - original).norm() < 0.05 * original.norm()
    assert report.accuracy is not None
    right = small.argmax(-1) == torch.tensor(images.samples.labels)
    assert report.accuracy.file == pytest.approx(100 * right.float().mean().item())


def test_int8_stays_int8_in_memory(tmp_path: Path) -> None:
    target = tmp_path / "a.safetensors"
    quantize_model(network(), target, CALIBRATION, QuantizeOptions(format="torchao"))
    loaded = load_quantized(target).model
    kinds = {
        name: value.dtype for name, value in loaded.named_parameters() if name.endswith("original")
    }
    assert len(kinds) > 20 and set(kinds.values()) == {torch.int8}
    # Standard operators alone: it can be traced, and the integers stay integers.
    program = torch.export.export(loaded, (torch.randn(1, 3, 64, 64),))
    assert any(value.dtype == torch.int8 for value in program.state_dict.values())


@pytest.mark.parametrize("name", SMALLEST)
def test_every_family_runs_with_int8_in_memory(name: str, tmp_path: Path) -> None:
    card = ModelCard(
        model=name, options=SHALLOW[name], classes=CLASSES, preprocessing=PREPROCESSING
    )
    trained = TrainedModel(shallow(name), card, "the test")
    target = tmp_path / "a.safetensors"
    WeightQuantizer(trained, CALIBRATION, tmp_path).write(target)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        small, plain = (load(target).model(image) for load in (load_quantized, load_trained))
    torch.testing.assert_close(small, plain)


def test_a_state_dict_of_floats_is_left_as_it_is() -> None:
    state = {"a.weight": torch.randn(2, 3), "a.table": torch.ones(2, dtype=torch.int8)}
    whole = in_float(state)
    assert whole.keys() == state.keys() and all(whole[name] is state[name] for name in state)
