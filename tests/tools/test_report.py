"""The parts of the report: colours in order, maps recombined, text escaped."""

import numpy as np
import torch
from PIL import Image

import foveal
from foveal.models.efficientmod import EfficientModulation
from foveal.tools.report.colours import colour, gradient
from foveal.tools.report.modulation import modulation_maps, overlay
from foveal.tools.report.page import card, confusion_table, page, picture


def lightness(rgb: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB."""
    linear = (rgb / 255) ** 2.2
    y = linear @ np.array([0.2126, 0.7152, 0.0722])
    return 116 * np.cbrt(y) - 16


def test_equal_steps_of_value_are_equal_steps_of_lightness():
    steps = np.diff(lightness(colour(np.linspace(0, 1, 17)[None])[0]))
    assert (steps > 0).all()
    assert steps.max() < 2 * steps.min()
    assert gradient(64).size == (64, 12)


def test_maps_are_the_root_mean_square_context_of_each_stage():
    torch.manual_seed(0)
    model = foveal.create_model("efficientmod_xxs", num_classes=10).eval()
    images = torch.randn(2, 3, 64, 48)
    kept: list[torch.Tensor] = []
    stage = model.get_submodule("stages.1")
    last = [m for m in stage.modules() if isinstance(m, EfficientModulation)][-1]
    hook = last.g.register_forward_hook(lambda *arguments: kept.append(arguments[2]))
    maps = modulation_maps(model, images)
    hook.remove()
    assert {stage: tuple(values.shape) for stage, values in maps.items()} == {
        "stage 1": (2, 16, 12),
        "stage 2": (2, 8, 6),
        "stage 3": (2, 4, 3),
        "stage 4": (2, 2, 2),
    }
    torch.testing.assert_close(maps["stage 2"], kept[-1].square().mean(-1).sqrt())


def test_an_overlay_shows_where_the_map_is_strong():
    values = torch.zeros(4, 4)
    values[0, 0] = 3
    shown = np.asarray(overlay(values, Image.new("L", (8, 8), 128), side=32)).astype(int)
    assert shown.shape == (32, 32, 3)
    assert shown[0, 0].sum() > shown[-1, -1].sum()
    assert overlay(torch.ones(1, 1), Image.new("L", (8, 8)), side=32).size == (32, 32)


def test_text_is_escaped():
    nasty = '<b>"&'
    image = picture(Image.new("L", (2, 2)), nasty, 10)
    table = confusion_table((nasty, "b"), ((1, 0), (2, 3)))
    whole = page(nasty, card(image, nasty), table)
    assert "<b>" not in whole and "&lt;b&gt;&quot;&amp;" in whole
