"""Receptive fields that are known by construction, and networks of every layout of features."""

from math import inf
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from foveal.errors import FovealError
from foveal.tools.explain.evidence import receptive_field_view, try_receptive_field
from foveal.tools.explain.features import as_map, last_map, undisturbed
from foveal.tools.explain.receptive_field import ReceptiveField, effective_receptive_field
from foveal.tools.explain.views import MapView
from tests.models.families import SHALLOW, shallow

IMAGES = torch.randn(2, 3, 65, 49, generator=torch.Generator().manual_seed(0))

# timm's networks in small, one for each layout that features come in, with the size of the map.
OTHERS = {
    "swin_tiny_patch4_window7_224": (
        {"depths": (1, 1, 1, 1), "embed_dim": 16, "num_heads": (1, 1, 2, 2)},
        (7, 7),
    ),
    "convnext_tiny": ({"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}, (7, 7)),
    "vit_tiny_patch16_224": ({"depth": 1, "embed_dim": 24, "num_heads": 2}, (14, 14)),
    "deit_tiny_distilled_patch16_224": ({"depth": 1, "embed_dim": 24, "num_heads": 2}, (14, 14)),
}


def depthwise(size: int, dilation: int = 1) -> nn.Conv2d:
    torch.manual_seed(size)
    padding = dilation * (size // 2)
    return nn.Conv2d(3, 3, size, padding=padding, dilation=dilation, groups=3)


def support(field: ReceptiveField) -> set[tuple[int, int]]:
    """Pixels that contribute, from the centre pixel of an image of 65 × 49."""
    rows, columns = np.nonzero(field.contributions)
    return set(zip((rows - 32).tolist(), (columns - 24).tolist(), strict=True))


def square(side: int, step: int = 1) -> set[tuple[int, int]]:
    offsets = range(-(side // 2) * step, side // 2 * step + 1, step)
    return {(y, x) for y in offsets for x in offsets}


@pytest.mark.parametrize("random_signs", [True, False])
@pytest.mark.parametrize(
    ("network", "pixels"),
    [
        (depthwise(3), square(3)),
        (depthwise(7), square(7)),
        (nn.Sequential(depthwise(3), depthwise(3)), square(5)),
        (depthwise(3, dilation=4), square(3, step=4)),
        (nn.Sequential(depthwise(5), depthwise(3, dilation=3)), square(11)),
        (nn.Identity(), square(1)),
    ],
    ids=["3", "7", "3 and 3", "3 dilated", "5 and 3 dilated", "none"],
)
def test_the_field_of_convolutions_is_exactly_their_support(
    network: nn.Module, pixels: set[tuple[int, int]], random_signs: bool
):
    field = effective_receptive_field(network, IMAGES, random_signs=random_signs)
    assert support(field) == pixels
    assert field.contributions.sum() == pytest.approx(1, abs=1e-12)
    # And so is the square that holds everything.
    side = 1 + 2 * max(y for y, _ in pixels)
    assert field.high_contribution_side(1) == side
    assert field.high_contribution_area(1) == pytest.approx(side**2 / (65 * 49), abs=1e-12)


def test_contributions_are_the_weights_of_a_depthwise_convolution():
    convolution = depthwise(5)
    field = effective_receptive_field(convolution, IMAGES)
    weights = convolution.weight.detach().double().abs().sum((0, 1)).numpy()
    np.testing.assert_allclose(
        field.contributions[30:35, 22:27], weights / weights.sum(), rtol=1e-6
    )


def test_the_centre_of_an_even_map_is_the_lower_right_of_the_middle_four():
    field = effective_receptive_field(nn.Conv2d(3, 4, 8, stride=8), IMAGES[:, :, :64, :48])
    assert field.map_size == (8, 6)
    rows, columns = np.nonzero(field.contributions)
    assert (rows.min(), rows.max()) == (32, 39) and (columns.min(), columns.max()) == (24, 31)
    assert field.centre == (35.5, 27.5)
    assert field.high_contribution_side(1) == 8


def test_images_are_averaged_and_counted_and_progress_is_told():
    network = nn.Sequential(depthwise(3), nn.GELU())
    told: list[tuple[int, int]] = []
    both = effective_receptive_field(
        network, IMAGES, random_signs=False, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(1, 2), (2, 2)] and both.num_images == 2
    raw = np.zeros((65, 49))
    for image in IMAGES.split(1):
        leaf = image.clone().requires_grad_()
        network(leaf)[0, :, 32, 24].sum().backward()
        assert leaf.grad is not None
        raw += leaf.grad[0].double().abs().sum(0).numpy()
    np.testing.assert_allclose(both.contributions, raw / raw.sum(), rtol=1e-9, atol=0)


def test_random_signs_see_through_a_layer_norm_that_makes_the_plain_sum_constant():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 16, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.convolution(x.double())
            return nn.functional.layer_norm(maps.permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2)

    network, images = Normed().double(), IMAGES.double()

    def gradient(random_signs: bool) -> float:
        signs = torch.ones(16) if not random_signs else 2 * torch.randint(2, (16,)) - 1
        leaf = images[:1].clone().requires_grad_()
        (network(leaf)[0, :, 32, 24] * signs).sum().backward()
        assert leaf.grad is not None
        return leaf.grad.abs().max().item()

    torch.manual_seed(0)
    assert gradient(random_signs=False) < 1e-12 and gradient(random_signs=True) > 1e-2
    assert support(effective_receptive_field(network, images)) == square(3)


def test_the_seed_decides_the_signs():
    network = nn.Conv2d(3, 8, 3, padding=1)
    fields = [effective_receptive_field(network, IMAGES, seed=s).contributions for s in (0, 0, 1)]
    assert (fields[0] == fields[1]).all() and (fields[0] != fields[2]).any()


@pytest.mark.parametrize("name", SHALLOW)
def test_every_family_has_a_field(name: str):
    model, images = shallow(name), torch.randn(1, 3, 96, 64)
    field = effective_receptive_field(model, images)
    features = model.forward_features(images)
    assert field.map_size == tuple(features.shape[2:])
    assert 0 < field.high_contribution_area(0.5) <= field.high_contribution_area(0.95) <= 1


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_timm_have_a_field(name: str):
    options, map_size = OTHERS[name]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, **options).eval()
    images = torch.randn(1, 3, 224, 224)
    features = last_map(model, images)
    assert features.shape == (1, model.num_features, *map_size)
    assert effective_receptive_field(model, images).map_size == map_size


def test_a_feature_pyramid_gives_its_last_map():
    pyramid = timm.create_model("resnet18", features_only=True, out_indices=(0, 1))
    assert last_map(pyramid, IMAGES).shape == (2, 64, 17, 13)


def test_outputs_as_those_of_transformers_are_understood():
    class Transformer(nn.Module):
        def forward(self, x: Tensor) -> SimpleNamespace:
            tokens = nn.functional.unfold(x, 8, stride=8).transpose(1, 2)
            return SimpleNamespace(last_hidden_state=nn.functional.pad(tokens, (0, 0, 1, 0)))

    features = last_map(Transformer(), IMAGES)
    assert features.shape == (2, 3 * 64, 8, 6)
    assert torch.equal(features[:, 0], IMAGES[:, 0, :64:8, :48:8])


def test_layouts_are_told_apart_by_channels_and_else_by_the_proportions():
    tokens = torch.randn(2, 2 + 6 * 4, 5)
    patches = tokens[:, 2:].reshape(2, 6, 4, 5)
    expected = patches.permute(0, 3, 1, 2)
    size = (96, 64)
    assert torch.equal(as_map(tokens, image_size=size, num_prefix_tokens=2), expected)
    # The grid of 13 × 2 does not have the image's proportions, and 25 tokens have no grid of them.
    assert torch.equal(as_map(tokens, image_size=size), expected)
    with pytest.raises(FovealError, match="a map of features is"):
        as_map(tokens, image_size=size, num_prefix_tokens=1)
    assert torch.equal(as_map(patches, image_size=size, channels=5), expected)
    assert torch.equal(as_map(patches, image_size=size), expected)
    assert torch.equal(as_map(expected, image_size=size, channels=5), expected)
    assert torch.equal(as_map(expected, image_size=size), expected)


def test_a_declared_prefix_that_the_tokens_do_not_have_yet_is_not_taken_off():
    tokens = torch.randn(2, 1 + 6 * 4, 5)
    size = (96, 64)
    bare = as_map(tokens[:, 1:], image_size=size, num_prefix_tokens=1)
    assert torch.equal(bare, as_map(tokens, image_size=size, num_prefix_tokens=1))
    # A class token without the second that is declared beside it.
    assert torch.equal(bare, as_map(tokens, image_size=size, num_prefix_tokens=2))


@pytest.mark.parametrize(
    ("number", "side", "stride", "is_map"),
    [
        (1, 224, None, False),
        (2, 224, None, False),
        (1, 64, None, False),
        (1, 63, None, True),
        (1, 32, None, True),
        (1, 32, 16, False),
        (1, 31, 16, True),
        (1, 100, 64, True),
    ],
)
def test_a_single_token_is_a_map_only_of_an_image_of_a_single_patch(
    number: int, side: int, stride: int | None, is_map: bool
):
    tokens = torch.zeros(2, number, 8)
    if is_map:
        assert as_map(tokens, image_size=(side, side), stride=stride).shape == (2, 8, 1, 1)
        return
    with pytest.raises(FovealError, match="a map of features is"):
        as_map(tokens, image_size=(side, side), stride=stride)


def test_pits_class_token_is_no_map():
    depth, heads = (1, 1, 1), (1, 2, 4)
    model = timm.create_model("pit_ti_224", base_dims=(8, 8, 8), depth=depth, heads=heads).eval()
    with pytest.raises(FovealError, match=r"single token, shape \(1, 1, 32\), as a class token is"):
        last_map(model, torch.randn(1, 3, 224, 224))
    told = try_receptive_field(model, torch.randn(1, 3, 224, 224))
    assert isinstance(told, str) and told.startswith("No receptive field: The last layer of Pool")
    assert "choose" not in told


def test_a_view_that_fails_says_why_and_tells_its_progress():
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[2] == x.shape[3], "Input height (65) doesn't match (49).\nAnd more."
            return x

    class Silent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    told: list[tuple[int, int]] = []
    view = try_receptive_field(depthwise(3), IMAGES, lambda *done: told.append(done))
    assert isinstance(view, MapView) and told == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(view.values, receptive_field_view(depthwise(3), IMAGES).values)
    assert try_receptive_field(Square(), IMAGES) == (
        "No receptive field: Square fails on images of 49 × 65 pixels: Input height (65) doesn't "
        "match (49)."
    )
    silent = try_receptive_field(Silent(), IMAGES)
    assert isinstance(silent, str) and silent.endswith("pixels: AssertionError.")
    unfit = try_receptive_field(nn.Conv2d(1, 1, 1), IMAGES)
    assert isinstance(unfit, str) and "Conv2d fails on images of 49 × 65 pixels: " in unfit
    flat = try_receptive_field(nn.Flatten(), IMAGES)
    assert isinstance(flat, str) and flat.startswith("No receptive field: The last layer of Flat")


@pytest.mark.parametrize("shape", [(2, 10), (2, 47, 8), (2, 190, 8), (2, 3, 4, 5, 6)])
def test_what_is_no_map_is_refused(shape: tuple[int, ...]):
    with pytest.raises(FovealError, match=r"a map of features is \(b, c, h, w\)"):
        as_map(torch.zeros(shape), image_size=(224, 224))


def test_a_classifier_without_features_is_named_and_told_what_a_map_is():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(FovealError, match=r"Sequential gives shape \(2, 2\) .* without its head"):
        last_map(network, IMAGES)


def test_a_constant_or_broken_centre_has_no_field():
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 0

    class Detached(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach()

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float("nan")

    with pytest.raises(FovealError, match="zero everywhere"):
        effective_receptive_field(Constant(), IMAGES)
    with pytest.raises(FovealError, match="No gradient comes through Detached"):
        effective_receptive_field(Detached(), IMAGES)
    with pytest.raises(FovealError, match="not a finite number"):
        effective_receptive_field(Broken(), IMAGES)
    with pytest.raises(FovealError, match="batch"):
        effective_receptive_field(nn.Identity(), IMAGES[0])


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_a_training_model_is_left_as_it_was_whatever_mode_the_caller_is_in(guard: type):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[0].bias.grad = torch.ones(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with guard():
        field = effective_receptive_field(model, IMAGES.clone())
    assert support(field) == square(3)
    assert [module.training for module in model] == [True, False, True]
    assert not model[0].weight.requires_grad and model[0].bias.requires_grad
    assert torch.equal(model[0].bias.grad, torch.ones(4)) and model[1].weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_model_is_restored_after_an_error():
    model = nn.Sequential(nn.Conv2d(3, 4, 3)).train()
    with pytest.raises(RuntimeError, match="on the way"), undisturbed(model):
        raise RuntimeError("on the way")
    assert model.training and model[0].weight.requires_grad


def field_of(values: np.ndarray) -> ReceptiveField:
    return ReceptiveField(values / values.sum(), 1, (7, 7))


def gaussian(sigma: float, centre: tuple[float, float] = (111.5, 111.5)) -> np.ndarray:
    y, x = np.mgrid[:224, :224]
    return np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * sigma**2))


def blocks(values: np.ndarray, side: int) -> np.ndarray:
    cells = values.reshape(224 // side, side, 224 // side, side).mean((1, 3))
    return np.kron(cells, np.ones((side, side)))


@pytest.mark.parametrize("sigma", [15, 30, 60, 120])
@pytest.mark.parametrize("period", [2, 3, 4, 7, 8, 16, 28, 32])
def test_smooth_fields_have_no_blocks_wherever_they_lie(sigma: float, period: int):
    off = field_of(gaussian(sigma, (130.2, 97.3)))
    assert off.blockiness(period) == pytest.approx(1, abs=0.01)
    # A line along the summit, where no jump is, takes a little away.
    centred = field_of(gaussian(sigma))
    assert 0.95 < centred.blockiness(period) < 1.01
    rough = gaussian(sigma) * np.random.default_rng(0).exponential(size=(224, 224))
    assert field_of(rough).blockiness(period) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("period", [4, 8, 16, 28, 32])
def test_blocks_show_at_their_own_period(period: int):
    stepped = blocks(gaussian(30), period)
    assert field_of(stepped).blockiness(period) == inf
    faint = field_of(0.9 * gaussian(30) + 0.1 * stepped)
    assert faint.strongest_blockiness().period == period
    assert faint.blockiness(period) > 1.2
    # A grid between the lines sees none of it.
    assert faint.blockiness(period - 1) < faint.blockiness(period)


def test_blockiness_grows_with_the_share_of_blocks_and_knows_no_scale():
    smooth, stepped = gaussian(40), blocks(gaussian(40), 16)
    scores = [field_of((1 - a) * smooth + a * stepped).blockiness(16) for a in (0, 0.2, 0.5, 0.9)]
    assert scores == sorted(scores) and scores[-1] > 5 * scores[0]
    turned = field_of(stepped.T + 0.01 * smooth.T).blockiness(16)
    assert turned == pytest.approx(field_of(stepped + 0.01 * smooth).blockiness(16))


def test_an_even_field_and_an_empty_surrounding_have_no_blocks():
    assert field_of(np.ones((224, 224))).blockiness(32) == 1
    lone = np.zeros((224, 224))
    lone[100:124, 100:124] = gaussian(6)[100:124, 100:124]
    assert field_of(lone).blockiness(32) == 1


def test_high_contribution_squares_of_an_even_field():
    field = field_of(np.ones((21, 21)))
    assert field.high_contribution_side(9 / 441) == 3
    assert field.high_contribution_side(9.1 / 441) == 5
    assert field.high_contribution_area(0.5) == pytest.approx(15**2 / 441)
    # The square of a wide image reaches beyond it and counts with what is inside.
    wide = ReceptiveField(np.full((5, 21), 1 / 105), 1, (5, 21))
    assert wide.high_contribution_side(1) == 21 and wide.high_contribution_area(1) == 1


def test_wrong_questions_are_answered_in_a_sentence():
    field = field_of(np.ones((21, 21)))
    for share in (0, 1.1, -1):
        with pytest.raises(FovealError, match=r"share .* got"):
            field.high_contribution_area(share)
    for period in (1, 21):
        with pytest.raises(FovealError, match="from 2 to 20"):
            field.blockiness(period)
    with pytest.raises(FovealError, match="fits"):
        field.strongest_blockiness((32,))
