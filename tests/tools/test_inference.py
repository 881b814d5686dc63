"""Networks prepared for inference: the same outputs, less work, the original left alone."""

import pytest
import torch
from timm.layers import LayerScale2d
from torch import nn

import foveal
from foveal.errors import OptionError
from foveal.kernels import tables
from foveal.kernels.position_bias import mlp_on_grid
from foveal.layers.packed import PackedLinear, PackedPointwise
from tests.models.families import golden_weights

SMALL = [
    ("cloformer_xxs", {}),
    ("dat_tiny", {"depths": (1, 1, 2, 1)}),
    ("dat_pp_tiny", {"depths": (1, 1, 2, 1)}),
    ("efficientmod_xxs", {}),
    ("focalnet_tiny_srf", {"depths": (1, 1, 1, 1), "use_layerscale": True}),
    (
        "focalnet_tiny_srf",
        {"depths": (1, 1, 1, 1), "use_layerscale": True, "use_postln": True},
    ),
    ("transnext_micro", {"depths": (1, 1, 2, 1)}),
]


def filled(name: str, options: dict) -> nn.Module:
    """A network whose every parameter matters: no scale of 1e-4, no mean of 0."""
    model = foveal.create_model(name, num_classes=10, **options).eval()
    golden_weights(model)
    return model


@pytest.mark.parametrize(("name", "options"), SMALL)
def test_outputs_stay_the_same(name: str, options: dict):
    model = filled(name, options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ready = foveal.prepare_for_inference(model)
    with torch.inference_mode():
        # Twice, so that what was kept is used, and at another size in between.
        for size in ((64, 64), (50, 71), (64, 64)):
            images = torch.randn(2, 3, *size)
            expected = model(images)
            scale = expected.abs().max()
            torch.testing.assert_close(ready(images) / scale, expected / scale, rtol=0, atol=1e-5)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} of the original changed"


@pytest.mark.parametrize(("name", "options"), SMALL)
def test_nothing_foldable_is_left(name: str, options: dict):
    ready = foveal.prepare_for_inference(filled(name, options))
    kinds = [type(module) for module in ready.modules()]
    assert not {LayerScale2d, nn.BatchNorm2d} & set(kinds)
    assert PackedLinear in kinds or PackedPointwise in kinds
    assert not any(parameter.requires_grad for parameter in ready.parameters())
    assert not ready.training


def test_position_biases_are_made_once_a_size(monkeypatch: pytest.MonkeyPatch):
    made = []

    def counted(*args):
        made.append(args)
        return mlp_on_grid(*args)

    monkeypatch.setattr("foveal.kernels.position_bias.mlp_on_grid", counted)
    model = filled("transnext_micro", {"depths": (1, 1, 1, 1)})
    ready = foveal.prepare_for_inference(model)
    counts = []
    with torch.inference_mode():
        for size in (64, 64, 96, 64):
            ready(torch.randn(1, 3, size, size))
            counts.append(len(made))
        assert counts == [4, 4, 8, 8]
        model(torch.randn(1, 3, 64, 64))
    assert len(made) == 12, "the original keeps nothing"


def test_a_weight_written_to_afterwards_is_noticed():
    ready = foveal.prepare_for_inference(filled("transnext_micro", {"depths": (1, 1, 1, 1)}))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before = ready(images)
    with torch.no_grad():
        for parameter in ready.parameters():
            parameter.mul_(0.5)
    with torch.inference_mode():
        after = ready(images)
    again = foveal.prepare_for_inference(filled("transnext_micro", {"depths": (1, 1, 1, 1)}))
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.mul_(0.5)
    with torch.inference_mode():
        torch.testing.assert_close(after, again(images))
    assert not torch.allclose(before, after)


def test_packed_layers_are_plain_layers_elsewhere():
    linear = nn.Linear(6, 5)
    packed = PackedLinear(linear)
    x = torch.randn(2, 3, 6)
    torch.testing.assert_close(packed(x), linear(x))
    packed(x).sum().backward()
    assert linear.weight.grad is not None
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), linear(x))
        torch.testing.assert_close(packed.double()(x.double()), linear.double()(x.double()))


def test_what_is_kept_stays_within_its_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "MAX_KEPT_BYTES", 2**20)
    ready = foveal.prepare_for_inference(filled("transnext_micro", {"depths": (1, 1, 1, 1)}))
    with torch.inference_mode():
        for size in range(64, 193, 32):
            ready(torch.randn(1, 3, size, size))
    assert 0 < tables.kept_bytes() <= tables.MAX_KEPT_BYTES


def test_a_prepared_network_exports_to_standard_operators():
    ready = foveal.prepare_for_inference(filled("efficientmod_xxs", {}))
    images = torch.randn(1, 3, 64, 64)
    program = torch.export.export(ready, (images,))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(name.startswith("aten.") or name == "<built-in function getitem>" for name in names)
    torch.testing.assert_close(program.module()(images), ready(images), rtol=1e-4, atol=1e-4)


def test_twice_is_an_error():
    ready = foveal.prepare_for_inference(filled("efficientmod_xxs", {}))
    with pytest.raises(OptionError, match="prepared for inference already"):
        foveal.prepare_for_inference(ready)
