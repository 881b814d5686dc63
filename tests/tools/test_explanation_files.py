"""Figures and arrays of an explanation."""

import re
import warnings
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import AxesImage
from PIL import Image

from foveal.tools.explain.attentions import CloAttentionReading
from foveal.tools.explain.deformed import WindowAttentionReading
from foveal.tools.explain.explanation import Explanation
from foveal.tools.explain.run import Explained, ExplainSettings, explain_images
from foveal.tools.explain.views import MEAN, MapView, QueryView, View
from foveal.tools.report.explanation_figures import figure_of, figure_of_rows
from foveal.tools.report.explanation_files import file_names, write_arrays, write_figures
from tests.tools import explanations as made
from tests.tools.explain.test_run import noise, small


@pytest.fixture(scope="module")
def explained() -> Explained:
    """One image, a model of each kind of view."""
    models = [
        small("focalnet_tiny_srf", embed_dim=8),
        small("transnext_micro"),
        small("cloformer_xxs", depths=(2, 1, 1, 1)),
        small("dat_tiny", stage_spec=("L", "S", "D", "D")),
    ]
    return explain_images(
        models, [noise("a/b.png")], ExplainSettings(queries=2, keep_readings=True)
    )


def test_figures(explained: Explained, tmp_path: Path) -> None:
    (image,) = explained.explanation.images
    shown = Explanation((replace(image, models=(*image.models[2:4], image.models[3])),))
    done = []
    paths = write_figures(shown, tmp_path, lambda *n: done.append(n))
    assert done[-1] == (3, 3) and sorted(tmp_path.iterdir()) == sorted(paths)
    names = {path.stem for path in paths}
    assert names == {"b--cloformer_xxs", "b--dat_tiny", "b--dat_tiny-2"}
    for path in paths:
        if path.suffix == ".png":
            # Something is drawn: many colours, not a blank sheet.
            assert len(Image.open(path).convert("P").getcolors() or []) > 50
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_arrays(explained: Explained, tmp_path: Path) -> None:
    paths = write_arrays(explained, tmp_path, lambda *n: None)
    assert [path.stem for path in paths] == file_names(explained.explanation)
    focalnet, transnext = np.load(paths[0]), np.load(paths[1])
    reading = explained.recordings[0][1]["stages.0.blocks.0.mixer"]
    np.testing.assert_array_equal(
        transnext["stages.0.blocks.0.mixer/local_attention"],
        reading.local_attention,  # pyright: ignore[reportAttributeAccessIssue]
    )
    assert focalnet["stages.0.blocks.0.mixer/contexts_2"].shape == (1, 8, 1, 1)
    assert focalnet["stages.0.blocks.0.mixer/kernels_1"].shape == (8, 5, 5)


def test_arrays_keep_the_numbers_that_place_them_on_the_map(
    explained: Explained, tmp_path: Path
) -> None:
    focalnet, _, cloformer, dat = map(np.load, write_arrays(explained, tmp_path, lambda *n: None))
    recordings = explained.recordings[0]
    shift = []
    for path, reading in recordings[3].items():
        if isinstance(reading, WindowAttentionReading):
            assert dat[f"{path}/side"] == reading.side and dat[f"{path}/side"].ndim == 0
            assert tuple(dat[f"{path}/map_size"]) == reading.map_size
            shift.append(int(dat[f"{path}/shift"]))
    # Windows, then shifted ones.
    assert 0 in shift and max(shift) > 0
    path = "stages.0.blocks.0.mixer"
    reading = recordings[2][path]
    assert isinstance(reading, CloAttentionReading)
    assert cloformer[f"{path}/pooling"] == reading.pooling > 1
    assert focalnet["stages.0.blocks.0.mixer/normalized"].dtype == bool


# Colours


def images_of(axis: Axes) -> list[AxesImage]:
    """What lies on the picture, which is the first."""
    return axis.get_images()[1:]


def bars_of(axis: Axes) -> list[str]:
    return [bar.get_ylabel() for bar in axis.child_axes]


def drawn(view: View) -> Axes:
    """The panel of a view in a figure of it alone, laid out."""
    figure = figure_of_rows("title", [("row", [view])], made.picture(16, 20))
    figure.draw_without_rendering()
    return figure.axes[0]


def test_signed_maps_have_zero_in_the_middle() -> None:
    (shown,) = images_of(drawn(made.signed((5, 6))))
    low, high = shown.get_clim()
    assert low == -high and high == pytest.approx(np.nanmax(np.abs(made.signed((5, 6)).values[0])))


def test_the_mean_of_the_heads_has_its_own_scale() -> None:
    heads = np.array([[0.0, 1.0], [1.0, 0.0]])
    values = np.stack([0.5 + 0.01 * heads, heads, 1 - heads])[..., None].repeat(2, -1)
    (shown,) = images_of(drawn(MapView("share", "", (MEAN, "head 1", "head 2"), values[..., 0])))
    assert shown.get_clim() == pytest.approx((0.5, 0.51))


def test_maps_drawn_together_have_one_scale_without_what_is_not_drawn() -> None:
    values = np.arange(5.0)[:, None, None] * np.ones((5, 3, 3))
    values[0, 0, 0], values[1, 0, 0] = np.nan, np.inf
    view = MapView("level", "", ("0", "1", "2", "3", "4"), values)
    figure = figure_of_rows("title", [("row", [view])], made.picture(16, 20))
    limits = [images_of(axis)[0].get_clim() for axis in figure.axes[:4]]
    assert limits == [(0, 3)] * 4


@pytest.mark.parametrize("value", [0.0, 2.0, np.nan], ids=str)
def test_flat_maps_can_be_drawn(value: float) -> None:
    view = made.gates((3, 3), 1)
    view.values[:] = value
    assert len(images_of(drawn(view))) == 1


def test_every_part_of_an_attention_has_its_colours_from_zero() -> None:
    seen = made.pooled_and_window(0.5, 0.5)
    points = made.sampled(0.5, 0.5, heads=3)
    seen = replace(seen, points=points.points, mass=points.mass)
    axis = drawn(QueryView("attention", "", ("mean", "1", "2", "3"), ((seen,),)))
    window, grid = images_of(axis)
    assert bars_of(axis) == ["window, %", "pooled cells, %"]
    assert window.get_cmap() != grid.get_cmap()
    assert window.get_zorder() > grid.get_zorder()
    for shown, part in ((window, seen.window), (grid, seen.grid)):
        assert part is not None
        assert shown.get_clim() == (0, pytest.approx(part[0].max()))
    legend = axis.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["3 %", "10 %", "40 %"]
    # Areas of the legend are those of the points.
    mass = seen.mass
    assert mass is not None
    circles, *samples = axis.collections
    area = circles.get_sizes().max() / mass[0].max()  # pyright: ignore[reportAttributeAccessIssue]
    sizes = [sample.get_sizes()[0] for sample in samples]  # pyright: ignore
    assert sizes == pytest.approx([0.03 * area, 0.1 * area, 0.4 * area])


def test_a_window_off_the_map_is_drawn_as_far_as_it_is_on_it() -> None:
    axis = drawn(QueryView("attention", "", ("all",), ((made.padded_window(),),)))
    (window,) = images_of(axis)
    assert window.get_clim() == (0, pytest.approx(0.2))
    assert axis.get_title() == "attention: all\n70 % on padding off the map"
    (outline,) = axis.patches
    corners = outline.get_bbox().extents  # pyright: ignore[reportAttributeAccessIssue]
    assert corners == pytest.approx([0, 0, 3 / 7, 2 / 6])


# Titles


def test_names_are_neither_formulas_nor_complaints(tmp_path: Path) -> None:
    """Dollar signs and letters that the font lacks, in names of files, models and classes."""
    image = made.recurring().images[0]
    nasty = "$x_{$ \u732b"
    view = made.gates((3, 3), 1)
    view = replace(view, title=nasty, labels=(nasty,))
    curve = replace(made.spectrum(), labels=(nasty, "$", "b"), x_label=nasty, y_label=nasty)
    seen = replace(image.models[0], model="$_m$", activation=view, blocks=(), views=(curve,))
    shown = Explanation((replace(image, name=f"{nasty}.png", models=(seen,)),))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (path,) = write_figures(shown, tmp_path, lambda *n: None, formats=("svg",))
    assert path.stem == f"{nasty}--$_m$"
    assert f"<!-- $_m$, {nasty}.png -->" in path.read_text(encoding="utf-8")


def test_titles_say_which_of_the_models_of_one_name(tmp_path: Path) -> None:
    explanation = made.recurring()
    models = tuple(replace(m, blocks=(), activation=None) for m in explanation.images[0].models[:2])
    images = tuple(replace(image, models=models) for image in explanation.images)
    paths = write_figures(Explanation(images), tmp_path, lambda *n: None, formats=("svg",))
    assert [path.stem for path in paths] == [
        f"cat--efficientmod_xxs{number}" for number in ("", "-2", "-3", "-4")
    ]
    # A title may be two lines.
    texts = [" ".join(re.findall("<!-- (.*) -->", path.read_text("utf-8"))) for path in paths]
    assert "efficientmod_xxs, the model in the box, cat.jpg" in texts[0]
    assert "efficientmod_xxs, run/$best.st, cat.jpg (2)" in texts[3]


def test_a_mixer_outside_of_stages_is_the_last_row() -> None:
    figure = figure_of("cat.jpg", made.recurring().images[0].models[1])
    labels = [axis.texts[0].get_text() for axis in figure.axes if axis.texts]
    assert labels[1:] == ["stage 1\nwindow attention", "body.second\ngating"]


def test_a_query_is_marked(explained: Explained) -> None:
    model = explained.explanation.images[0].models[1]
    rows = [("stage 1", [model.blocks[0].views[0]])]
    figure = figure_of_rows("title", rows, model.picture)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1:].max(-1) < 60)
    assert red.any()
