"""Pages on which names recur: models told apart, and mixers outside of stages."""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from foveal.tools.report.explanation import write_explanation_page
from foveal.tools.report.titles import image_titles, model_titles
from tests.tools import explanations as made
from tests.tools.pages import ELSEWHERE, READY, STAGE_1, choose, label, panel, visited


def test_names_that_recur_are_told_apart():
    explanation = made.recurring()
    assert image_titles(explanation) == ["cat.jpg", "cat.jpg (2)"]
    models = explanation.images[0].models
    assert model_titles(models) == [
        "efficientmod_xxs, the model in the box",
        "efficientmod_xxs, run/$best.st",
        "efficientmod_xxs, run/$best.st (2)",
        "dat_tiny",
    ]
    noise = [replace(model, is_trained=False) for model in models[:2]]
    assert model_titles(noise)[1] == "efficientmod_xxs, random weights (2)"


def test_a_number_is_not_another_images_name():
    one = made.recurring().images[0]
    names = ("a.png", "a.png", "a.png (2)")
    explanation = made.Explanation(tuple(replace(one, name=name) for name in names))
    assert image_titles(explanation) == ["a.png", "a.png (3)", "a.png (2)"]


@pytest.fixture(scope="module")
def recurring(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a page on which names recur."""
    path = tmp_path_factory.mktemp("page") / "recurring.html"
    write_explanation_page(made.recurring(), path)
    return path.as_uri()


@pytest.fixture
def twins(browser: Any, recurring: str) -> Iterator[Any]:
    """That page, drawn and quiet."""
    with visited(browser, recurring) as page:
        page.wait_for_selector(READY)
        yield page
        assert page.complaints == []


def test_every_stage_says_which_of_the_models_of_one_name_it_shows(twins: Any):
    for stage in (STAGE_1, ELSEWHERE):
        texts = [h4.inner_text().split("\n") for h4 in twins.locator(f"{stage} h4").all()]
        assert texts == [
            ["efficientmod_xxs", "the model in the box"],
            ["efficientmod_xxs", "run/$best.st"],
            ["efficientmod_xxs", "run/$best.st (2)"],
            ["dat_tiny"],
        ]
    canvas = panel(twins, STAGE_1, "efficientmod_xxs, run").first.locator("figure > canvas")
    assert label(canvas).startswith("efficientmod_xxs, run/$best.st, stage 1, block 1 of 1")
    names = twins.locator("article").evaluate_all("(all) => all.map((one) => one.ariaLabel)")
    assert len(set(names)) == len(names) == 12
    assert twins.locator(".images span").all_inner_texts() == ["cat.jpg", "cat.jpg (2)"]


def test_paths_are_shown_as_they_are(twins: Any):
    card = twins.locator("section[aria-label=Overview] article").nth(1)
    words = "Weights: run/$best.st; input of 224\u00a0×\u00a0280 pixels."
    assert words in card.inner_text()


def test_all_classes_are_listed(twins: Any):
    lists = twins.locator("section[aria-label=Overview] .scores")
    assert lists.nth(0).locator("li").count() == 5
    assert lists.nth(1).locator(".name").all_inner_texts() == [f"class {i}" for i in range(10)]


def test_mixers_outside_of_stages_come_last_by_their_paths(twins: Any):
    titles = twins.locator("h3").all_inner_texts()
    assert titles == ["Overview", "Stage 1", "Elsewhere"]
    outside = panel(twins, ELSEWHERE, "efficientmod_xxs, run").first
    assert outside.locator(".block").inner_text() == "body.second, gating"
    choose(outside.get_by_label(re.compile(": block$")), 0)
    assert "elsewhere, body.first, gating: gates" in label(outside.locator("figure > canvas"))
    assert "Nothing to be read here." in panel(twins, ELSEWHERE, "dat_tiny").inner_text()


def test_attention_off_the_map_is_told_and_not_the_strongest(twins: Any):
    canvas = panel(twins, STAGE_1, "dat_tiny").locator("figure > canvas")
    words = label(canvas)
    assert "strongest in the window 20 % (row 3, column 3 of 4 × 4)" in words
    assert words.endswith("; 70 % on padding off the map. Nearest of 1 × 1 stored queries.")
