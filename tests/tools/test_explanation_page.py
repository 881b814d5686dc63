"""The page of what models see, in a real browser; its size, its colours and its packets."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.color import rgb2lab

from foveal.errors import FovealError
from foveal.tools.explain.views import QueryView
from foveal.tools.report.colours import diverging, second_sequential, sequential
from foveal.tools.report.encoding import model_packet, query_packet
from foveal.tools.report.explanation import explanation_page, write_explanation_page
from tests.tools import explanations as made
from tests.tools.pages import (
    READ,
    READY,
    STAGE_1,
    STAGE_2,
    choose,
    decoded,
    label,
    panel,
    pixels,
    settle,
    visited,
)


def array(numbers: bytes, entry: dict[str, Any]) -> np.ndarray:
    """Values of an array of a packet, as the page computes them."""
    count = int(np.prod(entry["shape"]))
    codes = np.frombuffer(numbers, f"<u{entry['bytes']}", count, entry["at"])
    shares = codes.reshape(entry["shape"]) / (254 if entry["bytes"] == 1 else 65534)
    along = (-1, *[1] * (shares.ndim - 1))
    low, high = (np.reshape(entry[end], along) for end in ("low", "high"))
    return np.where(shares > 1, np.nan, low + shares * (high - low))


@pytest.fixture(scope="module")
def html() -> str:
    """The page of two images and three models."""
    return explanation_page(made.explanation())


# What is written


def test_the_same_explanation_is_the_same_page_and_small(html: str):
    assert explanation_page(made.explanation()) == html
    # Mostly the scripts, the style and the pictures; 60 queries of 4 heads are 2 kB each model.
    assert 50_000 < len(html) < 200_000


def test_a_page_may_do_nothing_but_what_it_brings(html: str):
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "connect-src" not in rules
    assert all("unsafe" not in rule and "http" not in rule for rule in rules.values())
    live = explanation_page(made.explanation(1), live=True)
    assert "connect-src 'self'" in live
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!data:)', html)


def test_names_do_not_end_the_data(html: str):
    (content,) = re.findall(r'id="content">(.*?)</script>', html, re.DOTALL)
    assert json.loads(content)["images"][1]["name"] == made.NASTY
    assert "<script>alert" not in html


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, html: str):
    write_explanation_page(made.explanation(), tmp_path / "new" / "page.html")
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == html
    with pytest.raises(FovealError, match="Cannot write"):
        write_explanation_page(made.explanation(1), tmp_path / "new" / "page.html" / "below.html")


def test_a_packet_holds_the_readings_to_a_step():
    models = made.explanation(1).images[0].models
    header, numbers = decoded(model_packet(models[0]))
    gates, signed = header["blocks"][2]["views"]
    shown = array(numbers, gates["values"])
    np.testing.assert_allclose(shown, made.gates((20, 25)).values, atol=3 / 254 / 2 + 1e-4)
    assert len(gates["values"]["low"]) == 1
    assert len(signed["values"]["low"]) == 2
    assert signed["values"]["low"] == [-high for high in signed["values"]["high"]]
    assert np.isnan(array(numbers, signed["values"])[1, 0, 0])
    spectrum = header["blocks"][5]["views"][0]
    assert spectrum["y"][2][5] is None
    assert spectrum["x"][-1] == 0.5


def test_a_packet_of_a_query_keeps_the_sums_of_its_parts():
    attention = made.pooled_and_window(0.01, 0.99)
    assert attention.grid is not None
    assert attention.window is not None
    header, numbers = decoded(query_packet(attention))
    query = header["query"]
    sums = np.add(query["grid"]["sums"], query["window"]["sums"])
    np.testing.assert_allclose(sums, 1, atol=1e-4)
    np.testing.assert_allclose(query["grid"]["sums"], attention.grid.sum((1, 2)), atol=1e-4)
    assert query["corner"] == [-1, 16]
    step = attention.window.max((1, 2), keepdims=True) / 254
    difference = np.abs(array(numbers, query["window"]) - attention.window)
    # The first row and the last column lie off the map and have no values; their share is told.
    on_map = difference[:, 1:, :2]
    assert (on_map <= step / 2 + 1e-5).all()
    assert np.isnan(difference).sum() == difference.size - on_map.size
    off = attention.window.sum((1, 2)) - attention.window[:, 1:, :2].sum((1, 2))
    np.testing.assert_allclose(query["off"], off, atol=1e-5)


def test_a_window_off_the_map_has_the_scale_of_what_is_drawn():
    query = decoded(query_packet(made.padded_window()))[0]["query"]
    assert query["window"]["high"] == [pytest.approx(0.2, abs=1e-5)]
    assert query["window"]["sums"] == [pytest.approx(1, abs=1e-5)]


def test_points_of_a_packet_are_nearer_than_a_pixel():
    attention = made.sampled(0.5, 0.5)
    assert attention.points is not None
    header, numbers = decoded(query_packet(attention))
    shown = array(numbers, header["query"]["points"])
    np.testing.assert_allclose(shown, attention.points, atol=1e-4)


def test_what_is_the_same_is_stored_once():
    same = tuple((made.sampled(0.5, 0.5),) * 40 for _ in range(2))
    one = made.model("m", made.picture(8, 8), made.stages((QueryView("a", "b", ("mean",), same),)))
    _, numbers = decoded(model_packet(one))
    assert len(numbers) < 2 * 3 * 36 * 5 + 20 * 25 + 63 + 100


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf], ids=str)
def test_maps_of_nothing_have_a_scale(value: float):
    view = made.gates((2, 2))
    view.values[:] = value
    one = made.model("m", made.picture(8, 8), made.stages((view,)))
    header, _ = decoded(model_packet(one))
    assert header["blocks"][1]["views"][0]["values"]["high"] == [0]


# Colours


def lab_of(palette: np.ndarray) -> np.ndarray:
    return rgb2lab(palette[None] / 255)[0]


def test_signed_values_have_equal_steps_of_colour_to_both_sides():
    lab = lab_of(diverging(255))
    lightness = lab[:, 0]
    assert np.abs(lightness - lightness[::-1]).max() < 1
    assert np.argmax(lightness) == 127
    assert np.abs(lab[127, 1:]).max() < 1
    # Over several colours, as each is rounded to a byte.
    for side in (lab[127::15], lab[127::-15]):
        steps = np.linalg.norm(np.diff(side, axis=0), axis=1)
        assert steps.max() < 1.2 * steps.min()


def test_both_sides_differ_for_the_colour_blind():
    # Machado, Oliveira and Fernandes (2009): no red-sensitive, no green-sensitive cones.
    protanopia = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216]]
    protanopia.append([-0.003882, -0.048116, 1.051998])
    deuteranopia = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413]]
    deuteranopia.append([-0.011820, 0.042940, 0.968881])
    shares = diverging(255) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    for matrix in (protanopia, deuteranopia):
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = rgb2lab(srgb[None])[0]
        for distance in (40, 127):
            assert np.linalg.norm(lab[127 - distance] - lab[127 + distance]) > 20


@pytest.mark.parametrize("palette", [sequential, second_sequential])
def test_lightness_rises_by_equal_steps(palette):
    lightness = lab_of(palette(255))[:, 0]
    steps = np.diff(lightness[::8])
    assert steps.min() > 0.8 * steps.mean()
    assert steps.max() < 1.2 * steps.mean()


# In a browser


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, html: str) -> str:
    """The page as a file."""
    path = tmp_path_factory.mktemp("page") / "page.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, drawn; at the end of every test it must have been quiet."""
    with visited(browser, address) as page:
        page.wait_for_selector(READY)
        yield page
        assert page.complaints == []
        assert [url for url in page.asked if not url.startswith(("data:", "blob:"))] == [address]


def test_a_slider_moves_through_the_blocks(page: Any):
    focal = panel(page, STAGE_1, "focalnet_tiny_srf")
    slider, canvas = focal.get_by_label(re.compile(": block$")), focal.locator("figure > canvas")
    before = pixels(canvas)
    assert "block 2 of 2, mixer: gates, level 1" in label(canvas)
    assert slider.get_attribute("aria-valuetext") == "block 2 of 2, mixer"
    choose(slider, 0)
    assert pixels(canvas) != before
    assert "focalnet_tiny_srf, stage 1, downsampling, strided attention: norm" in label(canvas)
    assert focal.locator(".block").inner_text() == "downsampling, strided attention"


def test_a_slider_moves_through_heads_and_levels(page: Any):
    focal = panel(page, STAGE_1, "focalnet_tiny_srf")
    slider, canvas = focal.get_by_label(re.compile(": of which$")), focal.locator("figure > canvas")
    seen = {pixels(canvas)}
    for level in (1, 2):
        choose(slider, level)
        seen.add(pixels(canvas))
        name = f"level {level + 1}"
        assert f"gates, {name}" in label(canvas)
        assert slider.get_attribute("aria-valuetext") == name
        assert focal.get_by_label(re.compile(": of$")).input_value() == name
    assert len(seen) == 3
    focal.get_by_label(re.compile(": of$")).select_option("level 1")
    # The page draws with the next frame, which a busy machine takes its time over.
    from playwright.sync_api import expect

    expect(slider).to_have_value("0")


def test_views_and_labels_are_chosen_and_kept(page: Any):
    focal = panel(page, STAGE_1, "focalnet_tiny_srf")
    canvas = focal.locator("figure > canvas")
    seen = {pixels(canvas)}
    focal.get_by_label(re.compile(": of$")).select_option("level 3")
    seen.add(pixels(canvas))
    assert "gates, level 3" in label(canvas)
    focal.get_by_label(re.compile(": show$")).select_option("modulator")
    seen.add(pixels(canvas))
    assert "modulator, group 1" in label(canvas)
    focal.get_by_label(re.compile(": of$")).select_option("group 2")
    seen.add(pixels(canvas))
    assert len(seen) == 4
    high = f"{np.nanmax(made.signed((20, 25)).values[1]):.3g}"
    assert focal.locator(".scale > span").all_inner_texts() == ["", f"−{high}", "0", high]
    page.get_by_label("alert").check()
    page.wait_for_selector(READY)
    assert "modulator, group 2" in label(canvas)


def test_a_click_asks_in_all_models(page: Any):
    gates = panel(page, STAGE_1, "focalnet_tiny_srf").locator("figure > canvas")
    attention = panel(page, STAGE_1, "transnext_micro").locator("figure > canvas")
    before = pixels(attention)
    gates.click(position={"x": 5, "y": 5})
    assert pixels(attention) != before
    words = label(attention)
    assert "Query at row 2, column 2 of 14 × 18" in words
    # Of the stored queries the one in the first cell of 5 × 6.
    expected = made.pooled_and_window(0.1, 1 / 12)
    assert expected.window is not None
    share = 100 * expected.window[0].sum()
    found = re.search(r"window ([\d.]+) %, pooled ([\d.]+) % of the attention", words)
    assert found is not None
    assert float(found[1]) == pytest.approx(share, abs=0.6)
    assert float(found[2]) == pytest.approx(100 - share, abs=0.6)
    where = page.locator("#where").inner_text()
    assert where.endswith("% down, 1 % across")
    saw = page.locator("section[aria-label=Overview] figure > canvas").first
    assert label(saw) == f"What focalnet_tiny_srf saw; the query is {where}."


def test_arrow_keys_move_the_query_by_a_cell(page: Any):
    attention = panel(page, STAGE_1, "transnext_micro").locator("figure > canvas")
    attention.focus()
    seen = [pixels(attention)]
    for key in ("ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        seen.append(pixels(attention))
    assert len(set(seen)) == 4
    assert seen[0] == seen[-1]
    for _ in range(9):
        page.keyboard.press("ArrowUp")
    assert "Query at row 2, column" in label(attention)
    page.get_by_role("button", name="to the middle").click()
    assert pixels(attention) == seen[0]


def test_opacity_and_smoothing_are_for_all(page: Any):
    canvases = [
        panel(page, STAGE_1, name).locator("figure > canvas")
        for name in ("focalnet_tiny_srf", "transnext_micro")
    ]
    before = [pixels(canvas) for canvas in canvases]
    page.get_by_label("smooth").uncheck()
    blocks = [pixels(canvas) for canvas in canvases]
    choose(page.get_by_label("opacity of the colours"), 100)
    opaque = [pixels(canvas) for canvas in canvases]
    for i in range(2):
        assert len({before[i], blocks[i], opaque[i]}) == 3


def test_opaque_blocks_have_the_colours_of_their_values(page: Any):
    page.get_by_label("smooth").uncheck()
    choose(page.get_by_label("opacity of the colours"), 100)
    canvas = panel(page, STAGE_1, "focalnet_tiny_srf").locator("figure > canvas")
    settle(page)
    values = made.gates((20, 25)).values
    for row, column in [(0, 0), (6, 10), (19, 24)]:
        place = [(column + 0.5) / 25, (row + 0.5) / 20, 1, 1]
        shown = canvas.evaluate(f"(canvas, place) => Array.from(({READ})(canvas, place))", place)
        step = round(254 * (values[0, row, column] - values.min()) / np.ptp(values))
        assert np.abs(np.array(shown[:3]) - sequential(255)[step]).max() <= 3
    # What is no number leaves the grey of the picture.
    focal = panel(page, STAGE_1, "focalnet_tiny_srf")
    focal.get_by_label(re.compile(": show$")).select_option("modulator")
    focal.get_by_label(re.compile(": of$")).select_option("group 2")
    settle(page)
    for column, is_grey in ((0, True), (1, False)):
        place = [(column + 0.5) / 25, 0.5 / 20, 1, 1]
        shown = canvas.evaluate(f"(canvas, place) => Array.from(({READ})(canvas, place))", place)
        assert (len(set(shown[:3])) == 1) == is_grey


def test_points_are_told_in_words(page: Any):
    deformed = panel(page, STAGE_2, "transnext_micro")
    canvas = deformed.locator("figure > canvas")
    assert "strongest of 36 points" in label(canvas)
    assert "off the image" in label(canvas)
    before = pixels(canvas)
    deformed.get_by_label(re.compile(": show$")).select_option("offsets")
    assert pixels(canvas) != before
    deformed.get_by_label(re.compile(": of$")).select_option("group 2")
    off = made.displacements()
    share = 100 * off.mass[1][(off.points[1] >= 1).any(-1)].sum()
    found = re.search(r"; ([\d.]+) % off the image", label(canvas))
    assert found is not None
    assert float(found[1]) == pytest.approx(share, rel=0.1)
    assert deformed.locator("svg.circles").count() == 1


def test_curves_are_drawn_with_axes_and_names(page: Any):
    chart = panel(page, STAGE_2, "focalnet_tiny_srf").locator(".chart svg")
    assert chart.get_attribute("role") == "img"
    assert "relative power from" in label(chart).lower()
    texts = chart.locator("text").all_text_contents()
    assert {"cycles per cell", "relative power", "local branch", "0.3"} <= set(texts)
    paths = chart.locator("path")
    assert len({paths.nth(i).get_attribute("stroke-dasharray") for i in range(3)}) == 3
    # A value that is none leaves a gap.
    assert sorted(paths.nth(i).get_attribute("d").count("M") for i in range(3)) == [1, 1, 2]
    chosen = panel(page, STAGE_2, "focalnet_tiny_srf").get_by_label(re.compile(": of$"))
    chosen.select_option("local branch")
    assert "local branch" in label(chart)
    assert chart.locator("path.faint").count() == 2


def test_what_is_not_of_the_image_is_shown_alone(page: Any):
    whole = "section[aria-label='The whole network']"
    field = panel(page, whole, "focalnet_tiny_srf")
    canvas = field.locator("figure > canvas")
    assert label(canvas) == (
        "focalnet_tiny_srf, the whole network: receptive field, all. "
        "Greatest 1 at row 5, column 5 of 9 × 9."
    )
    before, where = pixels(canvas), page.locator("#where").inner_text()
    canvas.click(position={"x": 5, "y": 5})
    page.keyboard.press("ArrowDown")
    assert page.locator("#where").inner_text() == where
    choose(page.get_by_label("opacity of the colours"), 0)
    assert pixels(canvas) == before
    assert "Nothing to be read here." in panel(page, whole, "transnext_micro").inner_text()
    field.get_by_label(re.compile(": show$")).select_option("insertion")
    settle(page)
    texts = field.locator(".chart text").all_text_contents()
    assert {"score (× 10⁻³)", "share", "0", "4", "0.2"} <= set(texts)


def test_every_canvas_and_picture_says_what_it_is(page: Any):
    for canvas in page.locator("canvas").all():
        assert canvas.get_attribute("role") == "img"
        if canvas.is_visible():
            assert canvas.get_attribute("aria-label")
    shown = panel(page, STAGE_1, "transnext_micro").locator("figure > canvas")
    for part in ("transnext_micro", "stage 1", "block 2 of 2", "attention", "mean", "Query at"):
        assert part in label(shown)
    assert all(image.get_attribute("alt") is not None for image in page.locator("img").all())


def test_the_keyboard_reaches_every_control(page: Any):
    wanted = page.evaluate(
        "Array.from(document.querySelectorAll('input, select, button, summary, canvas[tabindex]'))"
        ".filter((e) => e.checkVisibility() && !(e.type === 'radio' && !e.checked)).length"
    )
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "() => { const e = document.activeElement; e.dataset.reached ??= Math.random();"
                " return e.matches('input, select, button, summary, canvas') ? e.dataset.reached"
                " : null; }"
            )
        )
    assert len(reached - {None}) == wanted > 20


def test_notes_and_noise_are_told(page: Any):
    overview = "section[aria-label=Overview]"
    banner = panel(page, overview, "transnext_micro").locator(".untrained")
    assert banner.inner_text() == "Untrained: what follows is noise."
    assert page.locator(".untrained").count() == 1
    tags = page.locator("article:has(.tag)")
    assert {tag.get_attribute("aria-label") for tag in tags.all()} == {
        "transnext_micro, stage 1",
        "transnext_micro, stage 2",
    }
    assert "no mixers" in panel(page, overview, "plain_network").inner_text()
    assert "Nothing to be read here." in panel(page, STAGE_1, "plain_network").inner_text()
    assert "224\u00a0×\u00a0280" in panel(page, overview, "focalnet_tiny_srf").inner_text()
    assert "The picture was cropped" in page.locator(".notice").inner_text()


def test_text_stays_text(page: Any):
    assert made.NASTY in page.locator("section[aria-label=Overview] .scores").first.inner_text()
    page.get_by_label("alert").check()
    page.wait_for_selector(READY)
    assert page.locator("h2").inner_text() == made.NASTY
    assert page.evaluate("document.scripts.length") == page.locator("script").count() == 8


def test_another_image_is_another_picture(page: Any):
    canvas = page.locator("section[aria-label=Overview] figure > canvas").first
    before = pixels(canvas)
    page.get_by_label("alert").check()
    page.wait_for_selector(READY)
    assert pixels(page.locator("section[aria-label=Overview] figure > canvas").first) != before


def test_light_and_dark(page: Any):
    ground = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    assert {light, page.evaluate(ground)} == {"rgb(255, 255, 255)", "rgb(17, 21, 26)"}


def test_print_shows_pictures_without_controls(page: Any):
    page.emulate_media(media="print", color_scheme="dark")
    for control in page.locator("input, select, button").all():
        assert not control.is_visible()
    assert panel(page, STAGE_1, "transnext_micro").locator("figure > canvas").is_visible()
    assert panel(page, STAGE_2, "focalnet_tiny_srf").locator(".chart svg").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


@pytest.mark.parametrize("width", [360, 800, 1600])
def test_the_page_itself_never_scrolls_sideways(page: Any, width: int):
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_old_browser_is_told(browser: Any, address: str):
    with visited(browser, "about:blank") as page:
        page.add_init_script("delete window.DecompressionStream")
        page.goto(address)
        assert "too old" in page.locator("#message").inner_text()
        assert page.complaints == []


def test_one_model_and_one_image(browser: Any, tmp_path: Path):
    whole = made.explanation(1)
    one = made.Explanation((made.ImageExplanation("a.png", whole.images[0].models[:1]),))
    write_explanation_page(one, tmp_path / "page.html")
    with visited(browser, (tmp_path / "page.html").as_uri()) as page:
        page.wait_for_selector(READY)
        assert page.locator("h1").inner_text() == "What focalnet_tiny_srf sees in a.png"
        assert not page.locator(".images").is_visible()
        assert page.complaints == []


def test_nothing_is_off_the_map_where_the_window_is_on_it(page: Any):
    attention = panel(page, STAGE_1, "transnext_micro").locator("figure > canvas")
    assert "window" in label(attention)
    assert "padding" not in label(attention)
