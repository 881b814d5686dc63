"""How strongly EfficientMod's context modulates each position of an image."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from foveal.models.efficientmod import EfficientModulation
from foveal.tools.report.colours import colour


def modulation_maps(
    model: nn.Module, images: Float[Tensor, "b c h w"]
) -> dict[str, Float[Tensor, "b h w"]]:
    """The mean absolute context of the last modulation block of every stage.

    Args:
        model: an EfficientMod.
        images: preprocessed.

    Returns:
        By stage, "stage 1" being the finest: maps at the stage's own resolution, from 0 up.
    """
    mixers: dict[str, EfficientModulation] = {}
    for path, module in model.named_modules():
        if isinstance(module, EfficientModulation):
            mixers[f"stage {int(path.split('.')[1]) + 1}"] = module
    maps: dict[str, Tensor] = {}

    def keep(stage: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(module, EfficientModulation)
            maps[stage] = module.readings(inputs[0])["context"].float().abs().mean(1).cpu()

        return hook

    hooks = [mixer.register_forward_pre_hook(keep(stage)) for stage, mixer in mixers.items()]
    try:
        with torch.inference_mode():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
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
