"""Probabilities of the classes at every pixel, from one look at an image or from several.

Each function here makes a `Look`, from a segmenter or from another look, so that they combine:
`at_scales(mirrored(in_windows(whole(model), 512)), MULTI_SCALE)`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from foveal.errors import OptionError
from foveal.tasks.segmentation.task import resized

Images = Float[Tensor, "b c h w"]
Probabilities = Float[Tensor, "b classes h w"]
Look = Callable[[Images], Probabilities]

# The scales that the papers' multi-scale figures are taken at, together with flipping.
MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)


def _stride_of(window: int, stride: int | None) -> int:
    if window < 1:
        raise OptionError(f"A window is 1 pixel or more a side, got {window}.")
    step = max(1, window * 2 // 3) if stride is None else stride
    if not 1 <= step <= window:
        raise OptionError(
            f"The stride is from 1 to the window's side, {window}, or there would be gaps; got "
            f"{step}."
        )
    return step


def _require_scales(scales: Sequence[float]) -> None:
    if not scales or not all(0 < scale < float("inf") for scale in scales):
        raise OptionError(
            f"Scales are positive factors, at least one, such as 0.5, 1 and 1.5; got {scales}."
        )


@dataclass(frozen=True, kw_only=True)
class SegmentInference:
    """How a segmenter looks at an image.

    Attributes:
        window: side in pixels of the windows that are looked at one by one; None for the whole
            image at once.
        stride: pixels from one window to the next; None for two thirds of the window, as in the
            papers (341 for 512).
        scales: of the image; the probabilities at all of them are averaged.
        flip: average with the mirror image, at every scale.
        windows_at_once: how many go through the network together.
    """

    window: int | None = None
    stride: int | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    windows_at_once: int = 1

    def __post_init__(self) -> None:
        if self.window is None and self.stride is not None:
            raise OptionError("A stride is that of windows: give window, or leave stride out.")
        if self.window is not None:
            _stride_of(self.window, self.stride)
        _require_scales(self.scales)
        if self.windows_at_once < 1:
            raise OptionError(f"windows_at_once is 1 or more, got {self.windows_at_once}.")

    @property
    def step(self) -> int | None:
        """Pixels from one window to the next, where there are windows."""
        return None if self.window is None else _stride_of(self.window, self.stride)


WHOLE_IMAGE = SegmentInference()


def look_of(model: nn.Module, inference: SegmentInference = WHOLE_IMAGE) -> Look:
    """A segmenter's probabilities as the options say.

    Args:
        model: a `Segmenter`, in eval mode.
        inference: how to look.
    """
    look = whole(model)
    if inference.window is not None:
        look = in_windows(look, inference.window, inference.stride, inference.windows_at_once)
    if inference.flip:
        look = mirrored(look)
    return look if inference.scales == (1.0,) else at_scales(look, inference.scales)


def segment(
    model: nn.Module, images: Images, inference: SegmentInference = WHOLE_IMAGE
) -> Int64[np.ndarray, "b h w"]:
    """The likeliest class of every pixel.

    Args:
        model: a `Segmenter`; it is put into eval mode.
        images: normalised, of any size, on the model's device.
        inference: how to look.
    """
    model.eval()
    with torch.inference_mode():
        return look_of(model, inference)(images).argmax(1).cpu().numpy()


def whole(model: nn.Module) -> Look:
    """One look at the whole image."""
    return lambda images: model(images).float().softmax(1)


def in_windows(
    look: Look, window: int, stride: int | None = None, windows_at_once: int = 1
) -> Look:
    """Looks at overlapping windows, averaged where they overlap.

    The last window of a row or column ends with the image; an image that is smaller than the
    window is looked at whole in that direction.

    Args:
        look: at each window.
        window: side in pixels.
        stride: pixels from one window to the next, at most `window`; None for two thirds of it.
        windows_at_once: how many are given to `look` together.

    Raises:
        OptionError: windows would leave gaps, or are empty.
    """
    step = _stride_of(window, stride)

    def windowed(images: Images) -> Probabilities:
        count, _, height, width = images.shape
        tall, wide = min(window, height), min(window, width)
        places = [*product(_starts(height, tall, step), _starts(width, wide, step))]
        total: Tensor | None = None
        looks = images.new_zeros(height, width, dtype=torch.float32)
        for start in range(0, len(places), windows_at_once):
            group = places[start : start + windows_at_once]
            cuts = [(slice(y, y + tall), slice(x, x + wide)) for y, x in group]
            seen = look(torch.cat([images[..., rows, columns] for rows, columns in cuts]))
            if total is None:
                total = seen.new_zeros(count, seen.shape[1], height, width)
            for (rows, columns), part in zip(cuts, seen.split(count), strict=True):
                total[..., rows, columns] += part
                looks[rows, columns] += 1
        assert total is not None
        return total / looks

    return windowed


def mirrored(look: Look) -> Look:
    """The mean of looks at the image and at its mirror image, mirrored back."""
    return lambda images: (look(images) + look(images.flip(-1)).flip(-1)) / 2


def at_scales(look: Look, scales: Sequence[float] = MULTI_SCALE) -> Look:
    """The mean of looks at the image enlarged and reduced; bilinear there and back.

    Raises:
        OptionError: there is no scale, or one that is not positive.
    """
    _require_scales(scales)

    def scaled(images: Images) -> Probabilities:
        size = images.shape[-2:]
        total: Tensor | None = None
        for scale in scales:
            rescaled = resized(images, [max(1, round(side * scale)) for side in size])
            seen = resized(look(rescaled), size)
            total = seen if total is None else total + seen
        assert total is not None
        return total / len(scales)

    return scaled


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin, so that they cover the length and the last one ends with it."""
    return [*range(0, length - window, stride), length - window]
