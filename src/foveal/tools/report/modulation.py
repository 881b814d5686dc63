"""How strongly EfficientMod's context modulates each position of an image."""

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from foveal.tools.explain.modulations import EfficientModulationReading
from foveal.tools.explain.record import record
from foveal.tools.report.colours import colour


def modulation_maps(
    model: nn.Module, images: Float[Tensor, "b c h w"]
) -> dict[str, Float[Tensor, "b h w"]]:
    """The root mean square of the context in the last modulation block of every stage.

    Args:
        model: an EfficientMod.
        images: preprocessed.

    Returns:
        By stage, "stage 1" being the finest: maps at the stage's own resolution, from 0 up.
    """
    with record(model) as recording, torch.inference_mode():
        model(images)
    maps: dict[str, Tensor] = {}
    for path, reading in recording.items():
        if isinstance(reading, EfficientModulationReading):
            stage = f"stage {int(path.split('.')[1]) + 1}"
            maps[stage] = torch.from_numpy(reading.context_magnitude)
    return maps


def overlay(
    values: Float[Tensor, "h w"], image: Image.Image, *, side: int = 96, opacity: float = 0.62
) -> Image.Image:
    """A map in colour over the image it belongs to, each map scaled to its own range.

    Args:
        values: the map.
        image: under it.
        side: of the result, in pixels.
        opacity: of the map, in [0, 1].
    """
    low, high = values.min(), values.max()
    scaled = ((values - low) / (high - low).clamp(min=1e-12)).numpy().astype(np.float32)
    smooth = np.asarray(Image.fromarray(scaled).resize((side, side), Image.Resampling.BICUBIC))
    under = image.convert("RGB").resize((side, side), Image.Resampling.NEAREST)
    return Image.blend(under, Image.fromarray(colour(smooth)), opacity)
