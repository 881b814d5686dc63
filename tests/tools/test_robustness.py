"""Errors under corruptions: what is summed up, and what need not be done again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from foveal.errors import FovealError
from foveal.tools.corruptions import ALEXNET_ERRORS, EXTRA, SEVERITIES, STANDARD
from foveal.tools.evaluate import EvaluationImages, EvaluationSettings, find_images
from foveal.tools.robustness import (
    CLEAN,
    Cell,
    Robustness,
    evaluate_robustness,
    plain_robustness,
    robustness_from_plain,
)
from foveal.tools.trained import TrainedModel, card_of
from tests.models.small_models import small_focalnet
from tests.pictures import COLOURS, write_folder


def whole_table(share_of_alexnets: float) -> tuple[Cell, ...]:
    """Cells whose errors are that share of AlexNet's, uneven over the severities."""
    cells = [Cell(CLEAN, 0, 100, 20)]
    for name in (*STANDARD, *EXTRA):
        mean = ALEXNET_ERRORS.get(name, 50.0) * share_of_alexnets
        for severity in SEVERITIES:
            wrong = round(1_000_000 * mean / 100 * (0.7 + 0.1 * severity))
            cells.append(Cell(name, severity, 1_000_000, wrong))
    return tuple(cells)


def test_the_mce_is_relative_to_alexnets_errors():
    assert len(STANDARD) == 15
    half = Robustness({}, True, whole_table(0.5))
    assert half.mce == pytest.approx(50, abs=1e-3)
    uneven = [
        replace(cell, num_wrong=2 * cell.num_wrong) if cell.corruption == "fog" else cell
        for cell in half.cells
    ]
    assert replace(half, cells=tuple(uneven)).mce == pytest.approx(50 + 50 / 15, abs=1e-3)
    assert half.clean_error == 20 and half.verdict().startswith("mCE 50.00 %")


def test_the_other_four_are_apart():
    robustness = Robustness({}, True, whole_table(0.5))
    doubled = tuple(
        replace(cell, num_wrong=0) if cell.corruption in EXTRA else cell
        for cell in robustness.cells
    )
    assert replace(robustness, cells=doubled).mce == robustness.mce
    others = robustness.results(standard=False)
    assert [result.name for result in others] == list(EXTRA)
    assert all(result.corruption_error is None for result in others)


def test_there_is_no_mce_of_other_classes_or_half_a_table():
    cells = whole_table(0.5)
    elsewhere = Robustness({}, False, cells)
    expected = sum(ALEXNET_ERRORS.values()) / 30
    assert elsewhere.mce is None and elsewhere.mean_error == pytest.approx(expected, abs=1e-3)
    assert "not relative to AlexNet's" in elsewhere.verdict()
    partial = Robustness({}, True, cells[:-21])
    assert partial.mce is None and "mCE needs all of them" in partial.verdict()
    assert Robustness({}, True).mean_error is None


def test_plain_values_come_back():
    robustness = Robustness({"model": "m"}, True, whole_table(0.8))
    plain = plain_robustness(robustness)
    assert robustness_from_plain(plain) == robustness
    assert plain["mce"] == pytest.approx(80, abs=1e-3) and len(plain["corruptions"]) == 19
    for wrong in ({}, [], {"cells": [{"a": 1}]}, {**plain, "cells": [{**plain["cells"][0]}, 3]}):
        with pytest.raises(FovealError, match="no result of foveal robustness"):
            robustness_from_plain(wrong)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, EvaluationImages]:
    """A network of three classes, and six pictures."""
    model = small_focalnet(num_classes=3)
    card = card_of(model, "focalnet_tiny_srf", {}, image_size=32)
    trained = TrainedModel(model, replace(card, classes=tuple(COLOURS)), "here")
    folder = write_folder(tmp_path_factory.mktemp("data") / "pictures", 2)
    return trained, find_images(trained, folder)


def last(growing: Iterator[Robustness]) -> Robustness:
    *_, known = growing
    return known


def test_cells_are_the_same_in_any_order_and_number_of_workers(
    judged: tuple[TrainedModel, EvaluationImages],
):
    names = ("gaussian_noise", "glass_blur")
    alone = last(evaluate_robustness(*judged, names, (1, 5)))
    assert [(c.corruption, c.severity) for c in alone.cells] == [
        (CLEAN, 0),
        *((name, severity) for name in names for severity in (1, 5)),
    ]
    others = EvaluationSettings(batch_size=4, workers=2)
    turned = last(evaluate_robustness(*judged, names[::-1], (5, 1), settings=others))
    assert turned == alone


def test_what_is_known_is_not_done_again(judged: tuple[TrainedModel, EvaluationImages]):
    first = last(evaluate_robustness(*judged, ("contrast",), (1, 2)))
    marked = tuple(replace(cell, num_wrong=6) for cell in first.cells)
    seen: list[tuple[int, int]] = []
    settings = EvaluationSettings(on_batch=lambda *done: seen.append(done))
    growing = evaluate_robustness(
        *judged, ("contrast",), (1, 2, 3), settings=settings, before=replace(first, cells=marked)
    )
    known = last(growing)
    assert known.cells[:3] == marked and len(known.cells) == 4
    assert seen == [(6, 6)]


def test_cells_of_something_else_are_refused(
    judged: tuple[TrainedModel, EvaluationImages], tmp_path: Path
):
    trained, images = judged
    first = last(evaluate_robustness(trained, images, ("contrast",), (1,)))
    other = replace(trained, model=small_focalnet(1, num_classes=3))
    with pytest.raises(FovealError, match=r"of other weights .* --overwrite"):
        next(evaluate_robustness(other, images, before=first))
    fewer = find_images(trained, write_folder(tmp_path / "pictures", 1))
    with pytest.raises(FovealError, match="of other images"):
        next(evaluate_robustness(trained, fewer, before=first))
    with pytest.raises(FovealError, match="Severities are 1 to 5, got 6"):
        next(evaluate_robustness(trained, images, severities=(1, 6)))
