"""A backbone as a pyramid: the network's own maps, its keys and layers, and nothing idle."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.models import group_parameters
from torch import nn

import foveal
from foveal.errors import OptionError
from foveal.models.freezing import freeze, freeze_norms
from foveal.models.pyramid import OnPyramid, Pyramid
from tests.models.families import SHALLOW, SMALLEST, stir

IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALLEST)
def test_maps_are_those_of_the_network_normed(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole: Any = foveal.create_model(name, **SHALLOW[name])
    stir(whole)
    save_file(whole.state_dict(), tmp_path / "weights.safetensors")
    file = str(tmp_path / "weights.safetensors")
    pyramid = Pyramid(name, checkpoint=file, **SHALLOW[name]).eval()
    with torch.no_grad():
        maps = pyramid(IMAGE)
        expected = whole.eval().forward_intermediates(IMAGE, intermediates_only=True)
    assert [m.shape[1] for m in maps] == pyramid.channels
    assert pyramid.reductions == [4, 8, 16, 32]
    for tapped, norm, plain in zip(maps, pyramid.norms, expected, strict=True):
        torch.testing.assert_close(tapped, norm(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [*SMALLEST, "timm:resnet18"])
def test_every_weight_takes_part(name: str) -> None:
    """Weights that no map needs would stop training on several devices."""
    pyramid = Pyramid(name, **SHALLOW.get(name, {}))
    sum(level.square().mean() for level in pyramid(IMAGE)).backward()  # type: ignore[union-attr]
    assert [n for n, p in pyramid.named_parameters() if p.grad is None] == []


def test_stages_count_from_four_pixels_a_cell() -> None:
    pyramid = Pyramid("timm:resnet18", out_indices=(1, 3))
    assert pyramid.reductions == [8, 32]
    assert [m.shape[-1] for m in pyramid(IMAGE)] == [12, 3]
    coarse = Pyramid("efficientmod_xxs", out_indices=(1, 2), **SHALLOW["efficientmod_xxs"])
    assert coarse.reductions == [8, 16]
    # What lies above the last map is not there.
    assert not any(n.startswith("model.stages.3") for n, _ in coarse.named_parameters())


class _Headed(OnPyramid):
    def __init__(self) -> None:
        super().__init__()
        inside = Pyramid("focalnet_tiny_srf", **SHALLOW["focalnet_tiny_srf"])
        self.body = nn.ModuleDict({"backbone": inside})
        self.head = nn.Linear(8, 2)


def test_layers_go_from_stem_to_head() -> None:
    model = _Headed()
    layers: Any = group_parameters(model, model.group_matcher(), reverse=True)
    stem = layers["body.backbone.model.stem.proj.weight"]
    assert stem == 0 and layers["head.weight"] == max(layers.values())
    # The norms of maps are new, as the head is.
    assert layers["body.backbone.norms.0.weight"] == layers["head.weight"]
    assert freeze(model, 1)
    frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
    assert frozen and all(n.startswith("body.backbone.model.st") for n in frozen)
    assert not any("stages.1." in n for n in frozen)


def test_frozen_norms_are_norms_alone() -> None:
    model = _Headed()
    held = freeze_norms(model.pyramid().model)
    still = {id(p) for module in held for p in module.parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) not in still), name
    assert still and model.head.weight.requires_grad


def test_what_has_no_maps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foveal.models.pyramid.create_model", lambda *_, **__: nn.Linear(2, 2))
    with pytest.raises(OptionError, match="flat has no maps of several scales"):
        Pyramid("flat")


def test_networks_for_one_size_are_refused() -> None:
    with pytest.raises(OptionError, match="images of one size alone"):
        Pyramid("timm:test_vit")
    maps = Pyramid("timm:test_vit", dynamic_img_size=True)(IMAGE)
    assert {tuple(m.shape[2:]) for m in maps} == {(4, 6)}
