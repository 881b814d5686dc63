"""Recording: whole networks, parts of them, networks without readings, and nothing left behind."""

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import foveal
from foveal.errors import FovealError, OptionError
from foveal.mixers import FocalModulation
from foveal.tools.explain.modulations import FocalModulationReading
from foveal.tools.explain.reading import OtherReading
from foveal.tools.explain.reading_views import views_of
from foveal.tools.explain.record import READINGS, read, record
from foveal.tools.explain.views import CurveView, MapView, PointView, QueryView
from tests.models.families import SMALLEST, shallow

IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALLEST)
def test_every_token_mixer_of_a_network_is_read(name: str) -> None:
    model = shallow(name)
    with torch.no_grad():
        before = model(IMAGES)
        with record(model) as recording:
            assert not recording
            torch.testing.assert_close(model(IMAGES), before, rtol=0, atol=0)
    paths = {path for path, module in model.named_modules() if type(module) in READINGS}
    assert {path for path in paths if path.endswith("mixer")} and set(recording) == paths
    assert not any(module._forward_hooks for module in model.modules())
    for reading in recording.values():
        for image in (0, 1):
            for view in views_of(reading, image, 3):
                check(view)


def check(view: MapView | QueryView | PointView | CurveView) -> None:
    """Labels and arrays belong together, and all numbers are finite."""
    assert view.title and view.about.endswith(".")
    if isinstance(view, QueryView):
        heads = {seen.num_heads for row in view.queries for seen in row}
        assert heads == {len(view.labels)}
        return
    arrays = {
        MapView: ("values",),
        PointView: ("references", "points", "mass"),
        CurveView: ("y",),
    }[type(view)]
    for array in (getattr(view, name) for name in arrays):
        assert len(array) == len(view.labels) and np.isfinite(array).all()
    if isinstance(view, PointView):
        np.testing.assert_allclose(view.mass.sum(1), 1, rtol=1e-5)


def test_a_part_of_the_network() -> None:
    model = shallow("focalnet_tiny_srf")
    with record(model, "stages.3.*") as recording, torch.inference_mode():
        model(IMAGES)
    assert list(recording) == ["stages.3.blocks.0.mixer"]
    reading = recording["stages.3.blocks.0.mixer"]
    assert isinstance(reading, FocalModulationReading)
    assert reading.gates.shape == (2, 3, 2, 3) and reading.gates.dtype == np.float32
    with pytest.raises(KeyError, match=r"Did you mean 'stages.3.blocks.0.mixer'"):
        _ = recording["stages.3.blocks.0.mixr"]
    with pytest.raises(OptionError, match=r"matches none of the mixers: stages\.0"):
        record(model, "layers.*").__enter__()


def test_before_the_network_has_run() -> None:
    with (
        record(shallow("efficientmod_xxs")) as recording,
        pytest.raises(KeyError, match="has not run yet"),
    ):
        _ = recording["stages.0.blocks.0.mixer"]


def test_hooks_go_when_the_block_fails() -> None:
    model = shallow("efficientmod_xxs")
    with pytest.raises(ZeroDivisionError), record(model):
        _ = 1 / 0
    assert not any(module._forward_hooks for module in model.modules())


def test_a_network_without_readings_says_what_still_works() -> None:
    with pytest.raises(FovealError, match="effective_receptive_field, class_activation_map"):
        record(timm.create_model("resnet10t")).__enter__()


def test_a_mixer_of_ones_own() -> None:
    class Own(nn.Conv2d):
        def readings(self, x: Tensor) -> dict[str, Tensor]:
            return {"output": self(x), "scale": self.weight.mean()}

    model = foveal.create_model(
        "metaformer_tiny",
        mixer=lambda dim: Own(dim, dim, 3, padding=1),
        embed_dims=(8, 8, 8, 8),
        depths=(1, 1, 1, 1),
    )
    with record(model) as recording, torch.no_grad():
        model(IMAGES)
    reading = recording["stages.0.blocks.0.mixer"]
    assert isinstance(reading, OtherReading) and reading.name == "Own"
    assert [view.title for view in views_of(reading)] == ["output"]


def test_half_precision_is_read_in_single() -> None:
    model = shallow("focalnet_tiny_srf").bfloat16()
    with record(model) as recording, torch.no_grad():
        model(IMAGES.bfloat16())
    reading = recording["stages.0.blocks.0.mixer"]
    assert isinstance(reading, FocalModulationReading)
    assert reading.modulator.dtype == np.float32


def test_a_mixer_of_ones_own_kind_of_ours() -> None:
    class Mine(FocalModulation):
        pass

    assert isinstance(read(Mine(8), torch.randn(1, 8, 5, 5)), FocalModulationReading)


def test_a_mixer_called_by_keyword() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = FocalModulation(8)

        def forward(self, image: Tensor) -> Tensor:
            return self.mixer(x=image)

    model = Outer()
    with record(model) as recording, torch.no_grad():
        model(torch.randn(1, 8, 5, 5))
    assert list(recording) == ["mixer"]


def test_a_compiled_network_is_refused() -> None:
    """It has run before without hooks, and goes on without them."""
    compiled = torch.compile(shallow("efficientmod_xxs"), backend="eager")
    with pytest.raises(FovealError, match=r"give record\(model._orig_mod\)"):
        record(compiled).__enter__()  # pyright: ignore[reportArgumentType]
