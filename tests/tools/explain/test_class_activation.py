"""Class activation maps against their formulas, and networks of every layout of features."""

import sys
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from foveal.errors import FovealError, MissingExtraError
from foveal.tools.explain.class_activation import METHODS, class_activation_map
from foveal.tools.explain.evidence import try_activation
from tests.models.families import SHALLOW, shallow

pytest.importorskip("pytorch_grad_cam")

GRADIENT_METHODS = [name for name in METHODS if name not in ("eigencam", "scorecam")]


class RegionClassifier(nn.Module):
    """Sees red in the lower right quarter alone: class 1 is red there, class 0 blue."""

    def __init__(self, region: tuple[slice, slice] = (slice(4, 8), slice(4, 8))):
        super().__init__()
        self.num_classes = 2
        self.patches = nn.Conv2d(3, 3, 8, stride=8, bias=False)
        self.patches.weight.data = torch.eye(3)[:, :, None, None].repeat(1, 1, 8, 8) / 64
        self.look = nn.Identity()
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data = torch.tensor([[-8.0, 0.0, 8.0], [8.0, 0.0, -8.0]])
        mask = torch.zeros(8, 8)
        mask[region] = 1
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.look(self.patches(x) * self.mask)
        return self.head(seen.mean((2, 3)))


def red(number: int = 2) -> Tensor:
    """Images of 64 × 64 that are red all over, more or less."""
    torch.manual_seed(0)
    images = torch.zeros(number, 3, 64, 64)
    images[:, 0] = 1 + 0.1 * torch.rand(number, 64, 64)
    return images


def enlarged(maps: Tensor) -> np.ndarray:
    """Maps cut off at 0, stretched to [0, 1] and enlarged to 64 × 64, as in the papers."""
    return enlarged_to(maps, 64)


def enlarged_to(maps: Tensor, side: int) -> np.ndarray:
    large = interpolate(maps.relu()[:, None], (side, side), mode="bilinear")[:, 0].detach()
    large = large - large.amin((1, 2), keepdim=True)
    return (large / large.amax((1, 2), keepdim=True)).numpy()


def body_and_images() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.GELU())
    return body, torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("method", ["gradcam", "hirescam"])
def test_behind_average_pooling_it_is_the_map_of_the_classifiers_weights(method: str):
    (body, images), classifier = body_and_images(), nn.Linear(6, 4)
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)
    result = class_activation_map(network, images, targets=[3, 1], method=method, layer="0")
    expected = enlarged(torch.einsum("bk,bkhw->bhw", classifier.weight[[3, 1]], body(images)))
    np.testing.assert_allclose(result.maps, expected, atol=1e-4)
    assert result.targets.tolist() == [3, 1] and result.method == method and result.layer == "0"


def test_layercam_weighs_each_position_by_its_own_positive_gradient():
    (body, images), classifier = body_and_images(), nn.Linear(6 * 64, 4)
    network = nn.Sequential(body, nn.Flatten(), classifier)
    result = class_activation_map(network, images, targets=2, method="layercam", layer=body)
    gradients = classifier.weight[2].view(6, 8, 8)
    expected = enlarged((gradients.relu() * body(images)).sum(1))
    np.testing.assert_allclose(result.maps, expected, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_mass_lies_where_the_classifier_looks(method: str):
    result = class_activation_map(RegionClassifier(), red(), method=method, layer="look")
    assert result.targets.tolist() == [1, 1] and not result.is_empty.any()
    assert result.maps.shape == (2, 64, 64) and result.maps.dtype == np.float32
    assert result.maps.min() >= 0 and (result.maps.max((1, 2)) == 1).all()
    # Half a cell of 8 pixels belongs to it, as cells are enlarged bilinearly.
    inside = result.maps[:, 28:, 28:].sum((1, 2)) / result.maps.sum((1, 2))
    assert (inside > 0.999).all()


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam", "layercam"])
def test_what_speaks_against_a_class_gives_an_empty_map(method: str):
    result = class_activation_map(RegionClassifier(), red(), targets=0, method=method, layer="look")
    assert result.is_empty.all() and not result.maps.any()


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_rounding_is_not_stretched_into_a_map(method: str):
    convolution, classifier = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
    nn.init.constant_(convolution.weight, 1.0)
    nn.init.constant_(classifier.weight, 1.0)
    network = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)
    flat = 7 + 1e-6 * torch.rand(1, 3, 32, 32)
    assert class_activation_map(network, flat, targets=1, method=method, layer="0").is_empty.all()


def test_one_empty_map_does_not_hide_the_others():
    images = torch.stack([red(1)[0], -red(1)[0]])
    result = class_activation_map(RegionClassifier(), images, targets=1, layer="look")
    assert result.is_empty.tolist() == [False, True]


def test_the_principal_component_points_to_what_stands_out_whatever_its_sign(
    monkeypatch: pytest.MonkeyPatch,
):
    from pytorch_grad_cam import eigen_cam

    project = eigen_cam.get_2d_projection
    for sign in (1, -1):
        monkeypatch.setattr(eigen_cam, "get_2d_projection", lambda x, s=sign: s * project(x))
        result = class_activation_map(RegionClassifier(), red(1), method="eigencam", layer="look")
        assert result.maps[0, 40:, 40:].min() > 0.5 > result.maps[0, :24, :24].max()


@pytest.mark.parametrize("name", SHALLOW)
def test_every_family_has_a_map_of_its_last_stage(name: str):
    model, images = shallow(name), torch.randn(2, 3, 96, 64)
    result = class_activation_map(model, images)
    assert result.maps.shape == (2, 96, 64) and not result.is_empty.all()
    assert result.layer == model.feature_info[-1]["module"]
    with torch.no_grad():
        assert result.targets.tolist() == model(images).argmax(1).tolist()


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "swin_tiny_patch4_window7_224": (
        {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2)},
        "layers.3",
    ),
    "convnext_tiny": ({"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}, "stages.3"),
    "vit_tiny_patch16_224": ({"depth": 2, "embed_dim": 24, "num_heads": 2}, "blocks.1.norm1"),
    "vit_base_patch16_siglip_gap_224": (
        {"depth": 1, "embed_dim": 24, "num_heads": 2},
        "blocks.0",
    ),
    # Their class token comes after these blocks, or goes through a stage of them.
    "cait_xxs24_224": ({"depth": 2, "embed_dim": 24, "num_heads": 2}, "blocks.1"),
    "xcit_nano_12_p16_224": ({"depth": 2, "embed_dim": 32, "num_heads": 2}, "blocks.1"),
    "pit_ti_224": (
        {"base_dims": (8, 8, 8), "depth": (1, 1, 2), "heads": (1, 2, 4)},
        "transformers.2.blocks.1.norm1",
    ),
    "resnet18": ({"block_args": {}, "layers": (1, 1, 1, 1)}, "layer4"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_timm_have_a_map(name: str):
    options, layer = OTHERS[name]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **options)
    result = class_activation_map(model, torch.randn(2, 3, 224, 224), targets=torch.tensor([4, 0]))
    assert result.layer == layer and result.maps.shape == (2, 224, 224)
    assert not result.is_empty.all() and result.targets.tolist() == [4, 0]


def test_blocks_without_the_class_token_are_taken_for_all_the_patches_they_give():
    options, _ = OTHERS["cait_xxs24_224"]
    torch.manual_seed(0)
    model: Any = timm.create_model("cait_xxs24_224", num_classes=5, **options).eval()
    images = torch.randn(1, 3, 224, 224)
    kept: list[Tensor] = []
    model.blocks[1].register_forward_hook(lambda *given: kept.append(given[2]))
    (gradient,) = torch.autograd.grad(model(images)[0, 2], kept[0])
    maps = (gradient.mean(1, keepdim=True) * kept[0]).sum(2).detach().view(1, 14, 14)
    for layer in (None, "blocks.1"):
        result = class_activation_map(model, images, targets=2, layer=layer)
        assert result.map_size == (14, 14)
        np.testing.assert_allclose(result.maps, enlarged_to(maps, 224), atol=1e-3)
    named = class_activation_map(model, images, targets=2, layer="blocks.1.norm1")
    assert named.layer == "blocks.1.norm1" and named.map_size == (14, 14)


def test_swins_map_is_that_of_its_channels_and_not_of_its_rows():
    """Head, norm and average pooling are linear enough to be written out."""
    options, _ = OTHERS["swin_tiny_patch4_window7_224"]
    torch.manual_seed(0)
    model: Any = timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **options).eval()
    images = torch.randn(1, 3, 224, 224)
    result = class_activation_map(model, images, targets=2, method="hirescam", layer="norm")
    maps = model.forward_features(images) @ model.head.fc.weight[2]
    large = interpolate(maps.relu()[:, None], (224, 224), mode="bilinear")[0, 0].detach().numpy()
    large = (large - large.min()) / (large.max() - large.min())
    np.testing.assert_allclose(result.maps[0], large, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method: str):
    model = shallow("focalnet_tiny_srf").train()
    model.stages[0].eval()
    model.norm.requires_grad_(False)
    bias = model.get_parameter("head.fc.bias")
    bias.grad = torch.ones_like(bias)
    modes = [part.training for part in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        class_activation_map(model, torch.randn(1, 3, 32, 32), method=method, targets=0)
    assert [part.training for part in model.modules()] == modes
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        f"norm.{name}" for name, _ in model.norm.named_parameters()
    }
    assert torch.equal(bias.grad, torch.ones_like(bias))
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["head.fc.bias"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(part._forward_hooks for part in model.modules())


def test_frozen_networks_without_parameters_and_low_precision_work(
    capsys: pytest.CaptureFixture[str],
):
    frozen = RegionClassifier().requires_grad_(False)
    expected = class_activation_map(RegionClassifier(), red(), layer="look").maps
    assert (class_activation_map(frozen, red(), layer="look").maps == expected).all()
    low = class_activation_map(frozen.to(torch.bfloat16), red(), layer="look")
    np.testing.assert_allclose(low.maps, expected, atol=0.05)
    bare = nn.Sequential(nn.AvgPool2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert class_activation_map(bare, red(), layer="0").maps.shape == (2, 64, 64)
    class_activation_map(frozen.float(), red(), layer="look", method="scorecam")
    assert capsys.readouterr() == ("", "")


def test_compiled_networks_and_outputs_as_those_of_transformers_are_understood():
    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.classifier = RegionClassifier()

        def forward(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.classifier(x))

    expected = class_activation_map(RegionClassifier(), red(), layer="look").maps
    assert (
        class_activation_map(Transformer(), red(), layer="classifier.look").maps == expected
    ).all()
    model, images = shallow("focalnet_tiny_srf"), torch.randn(1, 3, 32, 32)
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    assert class_activation_map(compiled, images).layer == "stages.3"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "gradcan"}, "Did you mean 'gradcam'"),
        ({"targets": 2}, "classes 0 to 1; got target 2"),
        ({"targets": [0, -1]}, "got target -1"),
        ({"targets": [0, 1, 0]}, "one for each of 2 images"),
        ({"targets": 0.5}, "whole numbers"),
        ({"layer": "lock"}, "Did you mean 'look'"),
        ({"layer": nn.Identity()}, "no part of RegionClassifier"),
        ({"layer": "head"}, "a map of features is"),
        ({"layer": None}, "class_activation_map takes one as layer"),
    ],
)
def test_wrong_questions_are_answered_in_a_sentence(options: dict[str, Any], says: str):
    with pytest.raises(FovealError, match=says):
        class_activation_map(RegionClassifier(), red(), **{"layer": "look", **options})


def test_a_model_without_classifier_is_refused():
    images = torch.randn(1, 3, 32, 32)
    with pytest.raises(FovealError, match="has no classifier"):
        class_activation_map(shallow("focalnet_tiny_srf", num_classes=0), images)
    with pytest.raises(FovealError, match="has no classifier"):
        class_activation_map(nn.Conv2d(3, 3, 1), images, layer="")


def test_layers_that_the_class_does_not_depend_on_are_refused():
    class Aside(RegionClassifier):
        def __init__(self, runs: int):
            super().__init__()
            self.aside, self.runs = nn.Conv2d(3, 3, 1), runs

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(self.runs):
                self.aside(x)
            return super().forward(x)

    with pytest.raises(FovealError, match="does not depend on this layer"):
        class_activation_map(Aside(1), red(), layer="aside")
    for runs in (0, 2):
        with pytest.raises(FovealError, match=f"runs {runs} times"):
            class_activation_map(Aside(runs), red(), layer="aside")


def test_advice_names_the_function_that_takes_a_layer():
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, x

    class Two(RegionClassifier):
        def __init__(self):
            super().__init__()
            self.pair = Pair()
            self.feature_info = [{"module": "pair", "num_chs": 3, "reduction": 8}]

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.pair(x)[0])

    told = try_activation(Two(), red(1), "gradcam")
    assert isinstance(told, str) and told.startswith("No class activation: Layer 'pair' gives no")
    assert "class_activation_map takes another as layer" in told and "choose" not in told


class Pooled(RegionClassifier):
    """Says which layer is its last."""

    def __init__(self, last: str, sign: float = 1.0):
        super().__init__()
        self.feature_info = [{"module": last, "num_chs": 3, "reduction": 8}]
        self.head.weight.data *= sign
        self.head.weight.data[0] = -1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.look(self.patches(x).mean((2, 3), keepdim=True)).flatten(1))


def test_a_map_of_one_cell_is_called_that_and_no_verdict():
    told = try_activation(Pooled("look"), red(1), "gradcam")
    assert told == "No class activation: the last map is 1 × 1, so all places are alike."
    # The same network at the layer before has places, and evidence against the likeliest class.
    against = try_activation(Pooled("patches", -1.0), red(1), "gradcam")
    assert isinstance(against, str) and "finds nothing that speaks for" in against


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(MissingExtraError, match=r"foveal\[explain\]"):
        class_activation_map(RegionClassifier(), red(), layer="look")
