"""Reading one image, and finding the ones that cannot be read before they are needed."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from foveal.errors import FovealError

EXTENSIONS = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}

# What PIL raises on damaged files: its own errors are OSErrors, its plug-ins add the others.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


class ImageError(FovealError):
    """A file that is not an image that can be read."""


@dataclass(frozen=True)
class BadImage:
    """A file that cannot be used, and why."""

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


def read_image(path: str | Path, mode: str = "RGB") -> Image.Image:
    """The image in `path`, upright and in `mode`.

    Raises:
        ImageError: the file is missing, empty, or no image that can be decoded.
    """
    try:
        with Image.open(path) as image:
            return to_mode(ImageOps.exif_transpose(image), mode)
    except _DECODE_ERRORS as error:
        raise ImageError(
            f"{path} is not an image that can be read: {_reason(Path(path), error)}."
        ) from error


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """`image` in `mode`; 16-bit greys are scaled to 8 bits, where PIL alone would clip them."""
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return image.convert(mode)


def verify_image(path: Path) -> BadImage | None:
    """None for a file that decodes to its end, otherwise what is wrong with it."""
    try:
        with Image.open(path) as image:
            # A JPEG decoded at an eighth of its size is read to the end all the same.
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
            image.load()
    except _DECODE_ERRORS as error:
        return BadImage(path, _reason(path, error))
    return None


def verify_images(paths: Sequence[Path], threads: int = 4) -> list[BadImage]:
    """The files among `paths` that cannot be used, in their order."""
    with ThreadPoolExecutor(threads) as pool:
        return [bad for bad in pool.map(verify_image, paths) if bad is not None]


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "there is no such file"
    if path.is_dir():
        return "it is a folder"
    if path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is in no image format known here"
    if isinstance(error, PermissionError):
        return "it may not be opened"
    return f"the file is damaged: {str(error).rstrip('.')}"
