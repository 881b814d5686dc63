"""The image to be explained, upright and in colour, with a word on what that took."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import ExifTags, Image

from foveal.data.images import is_16_bit, read_image
from foveal.data.transforms import Preprocessing
from foveal.tools.explain.names import distinct_names, printable

# A shorter side of this many pixels is more than a screen shows and a network is given.
SHORTER_SIDE = 2048


@dataclass(frozen=True)
class Picture:
    """An image, its file's name, and what was done to it, in sentences."""

    name: str
    image: Image.Image = field(repr=False)
    notices: tuple[str, ...] = ()


def read_pictures(paths: Sequence[str | Path]) -> list[Picture]:
    """The images in files, by names that tell them apart.

    Raises:
        ImageError: a file is missing, empty, or no image that can be decoded.
    """
    pictures = [read_picture(path) for path in paths]
    names = distinct_names([Path(path) for path in paths])
    return [replace(picture, name=name) for picture, name in zip(pictures, names, strict=True)]


def read_picture(path: str | Path) -> Picture:
    """The image in a file, its shorter side no more than 2048 pixels.

    Raises:
        ImageError: the file is missing, empty, or no image that can be decoded.
    """
    with warnings.catch_warnings():
        # Large is no surprise here: it is reduced.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = read_image(path, at_most=SHORTER_SIDE)
        with Image.open(path) as original:
            notices = _notices(original, image)
    return Picture(printable(Path(path).name), image, notices)


def _notices(original: Image.Image, shown: Image.Image) -> tuple[str, ...]:
    turned = original.getexif().get(ExifTags.Base.Orientation, 1)
    # From 5 on, it is turned by a quarter.
    width, height = original.size[::-1] if turned >= 5 else original.size
    said = {
        f"Reduced from {width} × {height} to {shown.width} × {shown.height} pixels": (
            min(original.size) > SHORTER_SIDE
        ),
        "Turned as its EXIF data ask for": turned not in (0, 1),
        "16-bit grey, scaled to 8 bits": is_16_bit(original),
        "Grey, shown as colour": original.mode in ("1", "L", "LA"),
        "Converted from CMYK": original.mode == "CMYK",
        "Transparent parts lie on white": _is_transparent(original),
        "The first of several frames": getattr(original, "n_frames", 1) > 1,
    }
    return tuple(f"{text}." for text, holds in said.items() if holds)


def _is_transparent(image: Image.Image) -> bool:
    """Whether anything of it is."""
    if not image.has_transparency_data:
        return False
    (least, _) = image.convert("RGBA").getchannel("A").getextrema()
    return isinstance(least, int) and least < 255


def seen_part(image: Image.Image, preprocessing: Preprocessing, at_most: int = 448) -> Image.Image:
    """The square in the middle that a network is given, at the resolution of a screen.

    Args:
        image: the whole of it.
        preprocessing: of the network.
        at_most: pixels a side; an image with fewer keeps its own.
    """
    side = max(1, round(min(image.size) * preprocessing.crop_pct))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    part = image.crop((left, top, left + side, top + side))
    shown = min(max(side, preprocessing.image_size), at_most)
    return part.resize((shown, shown), Image.Resampling.LANCZOS)
