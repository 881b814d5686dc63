"""Insertion and deletion, judged on classifiers whose evidence is known."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from foveal.errors import FovealError
from foveal.tools.explain.class_activation import ClassActivation, class_activation_map
from foveal.tools.explain.evidence import faithfulness_view
from foveal.tools.explain.faithfulness import Baseline, Faithfulness, insertion_deletion
from tests.models.families import shallow

SIZE, STEPS = 32, 16


class BrightCorner(nn.Module):
    """Class 1 if the corner of 8 × 8 pixels, a sixteenth of the image, is bright."""

    def __init__(self, sharpness: float = 20.0):
        super().__init__()
        self.num_classes = 2
        self.sharpness = nn.Parameter(torch.tensor(sharpness))
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        evidence = self.sharpness * (x[:, :, :8, :8].mean((1, 2, 3)) - 0.5)
        return torch.stack([-evidence, evidence], 1)


def bright(number: int = 1) -> Tensor:
    """Bright in the corner that counts and in the one opposite; dark elsewhere."""
    images = torch.zeros(number, 3, SIZE, SIZE)
    images[:, :, :8, :8] = images[:, :, -8:, -8:] = 1
    return images


def corner_first() -> np.ndarray:
    maps = np.zeros((1, SIZE, SIZE), np.float32)
    maps[:, :8, :8] = 1
    return maps


def judge(maps: np.ndarray, **options: Any) -> Faithfulness:
    options = {"steps": STEPS, "baseline": "zero", **options}
    return insertion_deletion(BrightCorner(), bright(len(maps)), maps, 1, **options)


def test_the_right_map_deletes_at_once_and_inserts_at_once_and_beats_chance():
    result = judge(corner_first())
    high, low = 1 / (1 + np.exp(-20)), 1 / (1 + np.exp(20))
    np.testing.assert_allclose(result.fractions, np.arange(STEPS + 1) / STEPS)
    np.testing.assert_allclose(result.deletion[0], [high] + [low] * STEPS, atol=1e-7)
    np.testing.assert_allclose(result.insertion[0], [low] + [high] * STEPS, atol=1e-7)
    # Trapezoids: half a step lies under the fall, half a step is missing under the rise.
    assert result.deletion_area[0] == pytest.approx(0.5 / STEPS, abs=1e-6)
    assert result.insertion_area[0] == pytest.approx(1 - 0.5 / STEPS, abs=1e-6)
    assert result.beats_chance.tolist() == [True]
    assert result.random_deletion_area[0] > 0.2 and result.random_insertion_area[0] < 0.9


def test_the_opposite_map_does_worse_than_chance():
    result = judge(corner_first()[:, ::-1, ::-1] - corner_first())
    assert result.deletion_area[0] == pytest.approx(1 - 0.5 / STEPS, abs=1e-6)
    assert result.insertion_area[0] == pytest.approx(0.5 / STEPS, abs=1e-6)
    assert result.beats_chance.tolist() == [False]


@pytest.mark.parametrize("baseline", get_args(Baseline))
def test_curves_run_between_the_image_and_the_baseline_and_mirror_each_other(baseline: Baseline):
    rng = np.random.default_rng(0)
    maps = rng.permutation(SIZE * SIZE).reshape(1, SIZE, SIZE).astype(np.float32)
    model, images = BrightCorner(sharpness=2.0), bright()
    result = insertion_deletion(model, images, maps, 1, steps=STEPS, baseline=baseline)
    whole = model(images).softmax(1)[0, 1].item()
    assert result.insertion[0, -1] == result.deletion[0, 0] == pytest.approx(whole, abs=1e-6)
    assert result.insertion[0, 0] == result.deletion[0, -1] < whole
    np.testing.assert_allclose(result.random_insertion[0, :, 0], result.insertion[0, 0], rtol=1e-6)
    np.testing.assert_allclose(result.random_deletion[0, :, 0], result.deletion[0, 0], rtol=1e-6)
    # To delete what matters most is to insert what matters least, read backwards.
    turned = insertion_deletion(model, images, -maps, 1, steps=STEPS, baseline=baseline)
    np.testing.assert_array_equal(turned.deletion, result.insertion[:, ::-1])
    np.testing.assert_array_equal(turned.insertion, result.deletion[:, ::-1])


def test_each_step_changes_its_share_of_pixels_in_the_order_of_the_map():
    class Sums(BrightCorner):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.clone())
            return super().forward(x)

    seen: list[Tensor] = []
    maps = np.arange(SIZE * SIZE, dtype=np.float64).reshape(1, SIZE, SIZE)
    insertion_deletion(Sums(), torch.ones(1, 3, SIZE, SIZE), maps, 0, steps=5, baseline="zero")
    # One pass told the number of classes; then insertion, deletion and the random maps.
    insertion, deletion, *_ = torch.cat(seen[1:]).split(6)
    for k, (put_in, left) in enumerate(zip(insertion, deletion, strict=True)):
        count = round(k * SIZE * SIZE / 5)
        expected = torch.zeros(SIZE * SIZE)
        expected[SIZE * SIZE - count :] = 1
        assert torch.equal(put_in, expected.view(SIZE, SIZE).expand(3, -1, -1))
        assert torch.equal(left, 1 - put_in)


def test_baselines_take_away_what_the_image_shows():
    images = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))

    def blank(baseline: Baseline) -> Tensor:
        class Watch(BrightCorner):
            def forward(self, x: Tensor) -> Tensor:
                seen.append(x)
                return super().forward(x)

        seen: list[Tensor] = []
        insertion_deletion(Watch(), images, np.zeros((1, 40, 60)), 0, steps=1, baseline=baseline)
        return seen[1][0]

    assert not blank("zero").any()
    assert torch.equal(blank("mean"), images[0].mean((1, 2), keepdim=True).expand(3, 40, 60))
    blurred = blank("blur")
    assert blurred.std() < 0.3 * images.std()
    torch.testing.assert_close(blurred.mean(), images.mean(), atol=0.02, rtol=0)


def test_an_empty_map_is_as_good_as_a_random_order_of_pixels_and_the_seed_decides():
    empty = np.zeros((1, SIZE, SIZE))
    first, same, other = (judge(empty, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.insertion, same.insertion)
    np.testing.assert_array_equal(first.random_insertion, same.random_insertion)
    assert (first.insertion != other.insertion).any()
    assert (first.random_insertion != other.random_insertion).any()
    # Half of the corner's 64 pixels are in after 0.5 ± 0.06 of a random order, and after an eighth
    # of an order row by row, whose area is 0.87.
    assert 0.3 < first.insertion_area[0] < 0.7


def chance_maps(number: int) -> np.ndarray:
    """Maps as smooth as the random ones, drawn elsewhere."""
    cells = torch.rand(number, 1, 7, 7, generator=torch.Generator().manual_seed(3))
    return nn.functional.interpolate(cells, (SIZE, SIZE), mode="bilinear")[:, 0].numpy()


def test_random_maps_seldom_beat_chance_and_the_right_one_always_does():
    """At most 1 of m + 2 random maps is better than m others; 200 of them stray by 2 points."""
    passed = judge(chance_maps(200), steps=8).beats_chance.mean()
    assert passed < 0.1 + 3 * 0.021
    right = [judge(corner_first(), seed=seed).beats_chance[0] for seed in range(10)]
    assert all(right)


def test_mean_and_spread_are_those_of_random_maps_and_as_many_as_asked():
    maps = chance_maps(40)
    many = insertion_deletion(
        BrightCorner(2.0), bright(), maps[:1], 1, steps=8, baseline="zero", num_random_maps=60
    )
    assert many.random_insertion.shape == many.random_deletion.shape == (1, 60, 9)
    alike = insertion_deletion(
        BrightCorner(2.0), bright(40), maps, 1, steps=8, baseline="zero", num_random_maps=2
    )
    # Of 40 areas the mean strays by a sixth of the spread, the spread by a ninth of itself.
    spread = alike.insertion_area.std(ddof=1)
    assert many.random_insertion_area[0] == pytest.approx(
        alike.insertion_area.mean(), abs=spread / 2
    )
    assert many.random_insertion_spread[0] == pytest.approx(spread, rel=0.4)
    assert many.random_deletion_area[0] == pytest.approx(alike.deletion_area.mean(), abs=spread / 2)
    assert many.random_deletion_spread[0] == pytest.approx(spread, rel=0.4)


def test_a_random_map_is_beaten_by_both_areas_or_not_at_all():
    fractions, half = np.array([0.0, 1.0]), np.full((1, 1, 2), 0.5)
    # By insertion alone, by deletion alone, by both, by neither.
    random_insertion = half + np.array([-0.1, 0.1, -0.1, 0.1])[None, :, None]
    random_deletion = half + np.array([-0.1, 0.1, 0.1, -0.1])[None, :, None]
    given = half[0], half[0], random_insertion, random_deletion, np.zeros(1, np.int64), "blur"
    result = Faithfulness(fractions, *given)
    assert result.num_random_beaten.tolist() == [1] and result.beats_chance.tolist() == [False]
    both = replace(result, random_insertion=half - 0.1, random_deletion=half + 0.1)
    assert both.num_random_beaten.tolist() == [1] and both.beats_chance.tolist() == [True]


def test_the_opposite_of_a_random_map_has_its_curves_from_behind():
    result = judge(corner_first(), num_random_maps=4)
    np.testing.assert_array_equal(
        result.random_insertion[:, 1::2], result.random_deletion[:, ::2, ::-1]
    )
    np.testing.assert_array_equal(
        result.random_deletion[:, 1::2], result.random_insertion[:, ::2, ::-1]
    )
    assert (result.random_insertion[:, 0] != result.random_insertion[:, 2]).any()


@pytest.mark.parametrize(("turned", "beaten"), [(False, 8), (True, 0)])
def test_the_view_names_smooth_random_maps_their_number_and_spread(turned: bool, beaten: int):
    maps = -corner_first() if turned else corner_first()
    activation = ClassActivation(maps, np.array([1]), "gradcam", "look", (4, 4))
    view = faithfulness_view(BrightCorner(), bright(), activation)
    curves = insertion_deletion(BrightCorner(), bright(), maps, 1, steps=16)
    assert "8 smooth random maps" in view.about
    assert view.about.endswith(f"By both areas the map is better than {beaten} of the 8.")
    area, spread = curves.random_insertion_area[0], curves.random_insertion_spread[0]
    assert view.labels[2] == f"insertion, random maps, area {area:.2f} ± {spread:.2f}"
    assert view.labels[0] == f"insertion, area {curves.insertion_area[0]:.2f}"
    np.testing.assert_allclose(view.y[3], curves.random_deletion[0].mean(0))


def test_batches_hold_no_more_images_than_asked_and_change_nothing():
    maps = np.random.default_rng(0).random((2, SIZE, SIZE))
    model, images = BrightCorner(), bright(2)
    whole = insertion_deletion(model, images, maps, [1, 0], steps=10)
    model.batches.clear()
    parts = insertion_deletion(model, images, maps, [1, 0], steps=10, batch_size=4)
    # Batches run on from curve to curve: of the map and of four pairs of random ones.
    assert model.batches == [1] + ([4] * 27 + [2]) * 2
    np.testing.assert_allclose(parts.deletion, whole.deletion, atol=1e-6)
    np.testing.assert_allclose(parts.random_insertion, whole.random_insertion, atol=1e-6)
    assert whole.targets.tolist() == [1, 0] and whole.deletion.shape == (2, 11)


def test_a_map_of_a_real_network_is_judged_and_the_network_left_as_it_was():
    model, images = shallow("cloformer_xxs").train(), torch.randn(1, 3, 64, 48)
    activation = class_activation_map(model, images)
    result = insertion_deletion(model, images, activation.maps, activation.targets, steps=4)
    assert result.insertion.shape == result.deletion.shape == (1, 5)
    for curve in (result.insertion, result.deletion, result.random_insertion):
        assert (curve >= 0).all() and (curve <= 1).all()
    assert model.training and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"maps": np.zeros((1, 7, 7))}, "enlarge smaller maps"),
        ({"maps": np.full((1, SIZE, SIZE), np.nan)}, "finite"),
        ({"targets": 2}, "classes 0 to 1; got target 2"),
        ({"baseline": "black"}, "blur, mean, zero; got 'black'"),
        ({"steps": 0}, "Steps are from 1"),
        ({"batch_size": 0}, "at least 1 image"),
        ({"num_random_maps": 0}, "even number from 2 up; got 0"),
        ({"num_random_maps": 5}, "even number from 2 up; got 5"),
        ({"model": nn.Identity()}, "no classifier"),
    ],
)
def test_wrong_questions_are_answered_in_a_sentence(options: dict[str, Any], says: str):
    given: dict[str, Any] = {
        "model": BrightCorner(),
        "images": bright(),
        "maps": corner_first(),
        "targets": 1,
    }
    with pytest.raises(FovealError, match=says):
        insertion_deletion(**{**given, **options})
