"""Boxes and masks drawn over a photograph, each class in a colour of its own."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

# Okabe and Ito's, which everyone can tell apart, but for black, which is in photographs, and
# yellow, which is too light for a curve on white.
_FIRST = ("#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7")

# Turns of the colour circle: later hues fall between the earlier ones.
_GOLDEN = 0.618034

_MASK_OPACITY = 0.4
_LINE = 2

Colour = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is drawn over a picture.

    Attributes:
        boxes: x1, y1, x2, y2 in the picture's pixels.
        labels: classes, which choose the colours.
        texts: at each box.
        masks: of the picture's size, where there are any.
    """

    boxes: Float[np.ndarray, "n 4"]
    labels: Sequence[int]
    texts: Sequence[str]
    masks: Bool[np.ndarray, "n h w"] | None = None


def class_colour(label: int) -> Colour:
    """The colour of a class, the same wherever it is drawn."""
    if label < len(_FIRST):
        red, green, blue = bytes.fromhex(_FIRST[label][1:])
        return red, green, blue
    hue, lightness = (label * _GOLDEN) % 1, (0.45, 0.6, 0.72)[label % 3]
    red, green, blue = (round(255 * c) for c in colorsys.hls_to_rgb(hue, lightness, 0.8))
    return red, green, blue


def drawn_objects(picture: Image.Image, drawing: Drawing, side: int) -> Image.Image:
    """The picture, enlarged or reduced to a longer side of `side` pixels, with what is drawn.

    Args:
        picture: in any mode.
        drawing: in the pixels of the picture.
        side: of the result, so that lines and letters have one size on all pictures.
    """
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    canvas = pil_to_tensor(picture.convert("RGB").resize(size, Image.Resampling.LANCZOS))
    if not len(drawing.labels):
        return to_pil_image(canvas)
    colours = [class_colour(label) for label in drawing.labels]
    if drawing.masks is not None:
        masks = torch.from_numpy(drawing.masks.copy())[:, None].float()
        shown = F.interpolate(masks, (size[1], size[0]), mode="bilinear")[:, 0] >= 0.5
        # One by one, the largest first: of masks drawn at once, torchvision blackens what overlaps.
        for index in shown.sum((1, 2)).argsort(descending=True, stable=True).tolist():
            canvas = draw_segmentation_masks(canvas, shown[index], _MASK_OPACITY, [colours[index]])
    stretch = np.array([size[0] / picture.width, size[1] / picture.height] * 2)
    boxes = np.clip(drawing.boxes * stretch, 0, np.array(size * 2))
    # The last pixels that a box covers end where it ends.
    left_top = np.minimum(boxes[:, :2], np.array(size) - 1)
    boxes = np.concatenate([left_top, np.maximum(boxes[:, 2:] - 1, left_top)], axis=1)
    canvas = draw_bounding_boxes(
        canvas,
        torch.from_numpy(boxes),
        list(drawing.texts),
        list(colours),
        width=_LINE,
        label_colors=[_ink_on(colour) for colour in colours],
        fill_labels=True,
    )
    return to_pil_image(canvas)


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is easier to read."""
    light = sum(
        share * (channel / 255) ** 2.2
        for share, channel in zip((0.2126, 0.7152, 0.0722), colour, strict=True)
    )
    return (0, 0, 0) if light > 0.18 else (255, 255, 255)
