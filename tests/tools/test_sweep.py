"""One set of weights at several sizes."""

from dataclasses import replace

import pytest
import torch

import foveal
from foveal.errors import FovealError
from foveal.models.transnext import TransNeXt
from foveal.tools.evaluate import EvaluationImages, EvaluationSettings, find_images
from foveal.tools.sweep import Sweep, evaluate_sizes, mode_options, pooled_side
from foveal.tools.trained import ModelCard, TrainedModel, card_of, model_by_name
from tests.models.small_models import randomized
from tests.pictures import COLOURS, write_folder

SMALL = {
    "embed_dims": (8, 8, 16, 16),
    "num_heads": (1, 1, 2, 2),
    "depths": (1, 1, 1, 1),
    "pretrain_size": 64,
}


def of_colours(card: ModelCard) -> ModelCard:
    return replace(card, classes=tuple(COLOURS))


@pytest.fixture(scope="module")
def images_and_model(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[TrainedModel, EvaluationImages]:
    """A TransNeXt of three classes that was trained at 64 pixels, by its word."""
    torch.manual_seed(0)
    model = foveal.create_model("transnext_micro", num_classes=3, **SMALL)
    card = card_of(randomized(model), "transnext_micro", SMALL, image_size=64)
    named = TrainedModel(model.eval(), of_colours(card), "here")
    folder = write_folder(tmp_path_factory.mktemp("data") / "pictures", 3)
    return named, find_images(named, folder)


@pytest.fixture(scope="module")
def sweep(images_and_model: tuple[TrainedModel, EvaluationImages]) -> Sweep:
    """At the trained size and at others, one of them ragged."""
    seen: list[tuple[int, int]] = []
    settings = EvaluationSettings(batch_size=4, on_batch=lambda *done: seen.append(done))
    trained, images = images_and_model
    sweep = evaluate_sizes(trained, images, [128, 64, 100], settings)
    assert seen[-1] == (81, 81) and len(seen) == 27
    return sweep


def test_transnext_has_three_modes_at_every_size(sweep: Sweep):
    assert sweep.modes() == ("extrapolated", "interpolated", "linear")
    assert [row.image_size for row in sweep.rows] == [64] * 3 + [100] * 3 + [128] * 3
    assert (sweep.trained_size, sweep.num_images) == (64, 9)
    assert all(row.cost.images_per_second > 0 for row in sweep.rows)


def test_the_modes_agree_at_the_trained_size_and_nowhere_else(sweep: Sweep):
    losses = {size: [row.loss for row in sweep.at(size).values()] for size in (64, 100, 128)}
    assert losses[64] == pytest.approx([losses[64][0]] * 3, rel=1e-5)
    for size in (100, 128):
        first, second, third = losses[size]
        assert len({round(first, 6), round(second, 6), round(third, 6)}) == 3


def test_the_linear_mode_keeps_the_trained_pooled_side(
    images_and_model: tuple[TrainedModel, EvaluationImages],
):
    trained, _ = images_and_model
    assert isinstance(trained.model, TransNeXt)
    assert mode_options(trained)["linear"] == {"position_bias": "extrapolate", "pool_size": 2}
    assert pooled_side(trained.model.config, 224) == 7
    assert pooled_side(trained.model.config, 32) == 1


def test_the_model_itself_is_left_as_it_was(
    images_and_model: tuple[TrainedModel, EvaluationImages], sweep: Sweep
):
    trained, _ = images_and_model
    assert isinstance(trained.model, TransNeXt)
    assert trained.model.config.pool_size is None and trained.card.options == SMALL


def test_other_families_have_one_way(images_and_model: tuple[TrainedModel, EvaluationImages]):
    _, images = images_and_model
    model = model_by_name("efficientmod_xxs", options={"num_classes": 3}, image_size=32)
    trained = TrainedModel(model.model, of_colours(model.card), "here")
    sweep = evaluate_sizes(trained, images, [48, 32, 48])
    assert [(row.image_size, row.mode) for row in sweep.rows] == [(32, None), (48, None)]


def test_bad_sizes_are_refused_before_any_work(
    images_and_model: tuple[TrainedModel, EvaluationImages],
):
    with pytest.raises(FovealError, match="from 32 pixels"):
        evaluate_sizes(*images_and_model, [64, 16])
    with pytest.raises(FovealError, match="one image size or more"):
        evaluate_sizes(*images_and_model, [])
