"""Reading one image, and finding the ones that cannot be read before they are needed."""

import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from foveal.errors import FovealError

EXTENSIONS = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

_ORIENTATION = 0x0112
# Values of the camera's note that turn the image by a quarter.
_QUARTER_TURNS = (5, 6, 7, 8)

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# What PIL raises on damaged files: its own errors are OSErrors, its plug-ins add the others.
DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class ImageError(FovealError):
    """A file that is not an image that can be read; `reason` says why, without its name."""

    def __init__(self, message: str, reason: str = ""):
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class EncodedImage:
    """An image file that lies inside a larger file.

    Attributes:
        name: the larger file and the image's place in it.
        data: the bytes of the image file.
    """

    name: str
    data: bytes = field(repr=False)


Source = Path | Image.Image | EncodedImage


@dataclass(frozen=True)
class BadImage:
    """A file that cannot be used, and why; inside a larger file, its place there."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} ({self.reason})"


def mode_of(in_chans: int) -> str:
    """PIL's mode for a number of channels: 1 grey, 3 colour, 4 colour and opacity."""
    if in_chans not in _MODES:
        raise FovealError(
            f"Image files have 1, 3 or 4 channels, and the model takes {in_chans}; "
            "choose in_chans=1, 3 or 4."
        )
    return _MODES[in_chans]


def read_image(
    source: str | Source, mode: str = "RGB", at_most: int | None = None, *, upright: bool = True
) -> Image.Image:
    """The image in a file, upright and in `mode`; one in memory is in `mode` alone.

    Args:
        source: the image.
        mode: PIL's, "L", "RGB" or "RGBA".
        at_most: pixels of the shorter side, to which a larger image is reduced.
        upright: whether to turn it as the camera's note in the file says.

    Raises:
        ImageError: the file is missing, empty, or no image that can be decoded.
    """
    if isinstance(source, Image.Image):
        return _reduced(to_mode(source, mode), at_most)
    try:
        with Image.open(_stream(source)) as image:
            if at_most is not None:
                # A JPEG is decoded at a fraction of its size, no smaller than this.
                image.draft(None, reduced_size(image.size, at_most))
            turned = ImageOps.exif_transpose(image) if upright else image
            return _reduced(to_mode(turned, mode), at_most)
    except DECODE_ERRORS as error:
        name = source.name if isinstance(source, EncodedImage) else source
        reason = _reason(source, error)
        raise ImageError(f"{name} is not an image that can be read: {reason}.", reason) from error


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """`image` in `mode`: greys of 16 bits or in [0, 1] scaled, transparent parts laid on white.

    PIL alone would clip the former, and show whatever colour hides under the latter.
    """
    if is_16_bit(image):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if image.mode == "F" and image.getextrema()[1] <= 1:  # pyright: ignore[reportOperatorIssue]
        # Intensities in [0, 1], which PIL would take for almost black.
        image = image.point(lambda value: value * 255 + 0)
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def is_16_bit(image: Image.Image) -> bool:
    """Whether it is a grey image with more than 8 bits a pixel."""
    if image.mode != "I":
        return image.mode.startswith("I;16")
    # What PIL calls 32-bit integers holds 16 bits of a file.
    (_, highest) = image.getextrema()
    return isinstance(highest, int | float) and highest > 255


def is_on_its_side(image: Image.Image) -> bool:
    """Whether the camera's note in the file turns the image by a quarter."""
    try:
        return image.getexif().get(_ORIENTATION) in _QUARTER_TURNS
    except (OSError, SyntaxError, ValueError, struct.error):
        # A damaged note says nothing.
        return False


def reduced_size(size: tuple[int, int], at_most: int) -> tuple[int, int]:
    """Width and height with a shorter side of no more than `at_most`, in about the proportions."""
    factor = min(1.0, at_most / min(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _reduced(image: Image.Image, at_most: int | None) -> Image.Image:
    if at_most is None or min(image.size) <= at_most:
        return image
    return image.resize(reduced_size(image.size, at_most), Image.Resampling.LANCZOS)


def verify_image(source: Source) -> BadImage | None:
    """None for a file that decodes to its end, otherwise what is wrong with it."""
    if isinstance(source, Image.Image):
        return None
    try:
        with Image.open(_stream(source)) as image:
            # A JPEG decoded at an eighth of its size is read to the end all the same.
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except DECODE_ERRORS as error:
        path = Path(source.name) if isinstance(source, EncodedImage) else source
        return BadImage(path, _reason(source, error))
    return None


def find_bad_images(sources: Sequence[Source], threads: int = 4) -> dict[int, BadImage]:
    """The places among `sources` of those that cannot be used; no more are held than threads."""
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda index: verify_image(sources[index]), range(len(sources)))
        return {index: bad for index, bad in enumerate(found) if bad is not None}


def verify_images(paths: Sequence[Path], threads: int = 4) -> list[BadImage]:
    """The files among `paths` that cannot be used, in their order."""
    return list(find_bad_images(paths, threads).values())


def require_images(paths: Sequence[Path]) -> None:
    """Raise an ImageError that names the first of the files that cannot be used."""
    for bad in verify_images(paths):
        raise ImageError(f"{bad.path} is not an image that can be read: {bad.reason}.")


def _stream(source: str | Path | EncodedImage) -> str | Path | BytesIO:
    return BytesIO(source.data) if isinstance(source, EncodedImage) else source


def _reason(source: str | Path | EncodedImage, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "it may not be opened"
    if isinstance(source, EncodedImage):
        return _damage(len(source.data), error)
    path = Path(source)
    if not path.exists():
        return "there is no such file"
    if path.is_dir():
        return "it is a folder"
    return _damage(path.stat().st_size, error)


def _damage(size: int, error: Exception) -> str:
    if size == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is in no image format known here"
    if isinstance(error, Image.DecompressionBombError):
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return f"it has more than {most} million pixels; reduce it first"
    return f"the file is damaged: {str(error).rstrip('.')}"
