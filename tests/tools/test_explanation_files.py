"""Figures and arrays of an explanation."""

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from foveal.tools.explain.explanation import Explanation
from foveal.tools.explain.run import Explained, ExplainSettings, explain_images
from foveal.tools.report.explanation_figures import figure_of_rows, limits
from foveal.tools.report.explanation_files import file_names, write_arrays, write_figures
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
    return explain_images(models, [noise("a/b.png")], ExplainSettings(queries=2))


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


def test_signed_maps_have_zero_in_the_middle(explained: Explained) -> None:
    gates = explained.explanation.images[0].models[0].blocks[0].views[0]
    low, high = limits(gates, 0)  # pyright: ignore[reportArgumentType]
    assert low == -high and high == pytest.approx(np.abs(gates.values).max())  # pyright: ignore


def test_a_query_is_marked(explained: Explained) -> None:
    model = explained.explanation.images[0].models[1]
    rows = [("stage 1", [model.blocks[0].views[0]])]
    figure = figure_of_rows("title", rows, model.picture)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
    red = (pixels[..., 0] > 200) & (pixels[..., 1:].max(-1) < 60)
    assert red.any()
