"""ImageNet-C's corruptions of an image (Hendrycks and Dietterich 2019, arXiv 1903.12261).

They are made on the fly by imagecorruptions-imaug, in the geometry of the published files: 224
pixels cut from a shorter side of 256, corrupted, stored as JPEG of quality 85. That library draws
motion blur, snow, zoom blur and elastic transform in its own way, so figures are near those of the
published files, not equal to them.
"""

import contextlib
import io
import random
import warnings
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Resize

from foveal.data.images import mode_of
from foveal.data.transforms import Preprocessing, eval_transform
from foveal.errors import FovealError, MissingExtraError, closest

PACKAGE = "imagecorruptions-imaug"

SEVERITIES = (1, 2, 3, 4, 5)

# AlexNet's top-1 error in per cent, the mean over the five severities: the unit of the corruption
# error. From the authors' own repository, github.com/hendrycks/robustness.
ALEXNET_ERRORS = {
    "gaussian_noise": 88.6428,
    "shot_noise": 89.4468,
    "impulse_noise": 92.2640,
    "defocus_blur": 81.9880,
    "glass_blur": 82.6268,
    "motion_blur": 78.5948,
    "zoom_blur": 79.8360,
    "snow": 86.6816,
    "frost": 82.6572,
    "fog": 81.9324,
    "brightness": 56.4592,
    "contrast": 85.3204,
    "elastic_transform": 64.6056,
    "pixelate": 71.7840,
    "jpeg_compression": 60.6500,
}

STANDARD = tuple(ALEXNET_ERRORS)
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
CORRUPTIONS = (*STANDARD, *EXTRA)

_SIDE, _SHORTER_SIDE, _JPEG_QUALITY = 224, 256, 85

# These draw from generators of their own, unless they are given a seed.
_SEEDED = ("glass_blur", "impulse_noise")


class CorruptedInput:
    """From an image to the input that a network gets of its corrupted copy.

    Random numbers come from the global generators, whose state decides the result alone.

    Args:
        name: of the corruption.
        severity: 1 to 5.
        preprocessing: of the network; a size other than 224 is resized to after the corruption.

    Raises:
        MissingExtraError: without imagecorruptions-imaug.
    """

    def __init__(self, name: str, severity: int, preprocessing: Preprocessing):
        require_corruptions()
        self.name = name
        self.severity = severity
        self.mode = mode_of(preprocessing.in_chans)
        self.cut = Compose([Resize(_SHORTER_SIDE), CenterCrop(_SIDE)])
        self.to_input = eval_transform(replace(preprocessing, crop_pct=1.0))

    def __call__(self, image: Image.Image) -> Tensor:
        corrupted = corrupt(self.cut(image.convert("RGB")), self.name, self.severity)
        return self.to_input(_stored(corrupted).convert(self.mode))


def corrupt(image: Image.Image, name: str, severity: int) -> Image.Image:
    """A corrupted copy of an RGB image from 32 × 32 pixels up.

    Args:
        image: the image.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
    """
    seed = {"seed": random.getrandbits(31)} if name in _SEEDED else {}
    # The library prints what it does about sides that do not fit, and divides by zero in passing.
    with (
        contextlib.redirect_stdout(io.StringIO()),
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
    ):
        warnings.simplefilter("ignore")
        array = _library().corrupt(np.asarray(image), severity, name, **seed)
    return Image.fromarray(array)


def require_corruptions() -> None:
    """Raise MissingExtraError without the library that makes corruptions."""
    _library()


def library_version() -> str:
    """Which release makes the corruptions."""
    try:
        return version(PACKAGE)
    except PackageNotFoundError as error:
        raise MissingExtraError(PACKAGE, "robustness") from error


def corruption_names(text: str) -> tuple[str, ...]:
    """The names that "all", "standard", "extra" or a list with commas stands for.

    Raises:
        FovealError: a corruption that there is not.
    """
    groups = {"all": CORRUPTIONS, "standard": STANDARD, "extra": EXTRA}
    if text in groups:
        return groups[text]
    names = text.split(",")
    for name in names:
        if name not in CORRUPTIONS:
            raise FovealError(
                f"There is no corruption {name!r}.{closest(name, CORRUPTIONS)} "
                f"There are all, standard, extra and {', '.join(CORRUPTIONS)}."
            )
    return tuple(name for name in CORRUPTIONS if name in names)


def _stored(image: Image.Image) -> Image.Image:
    """An image after it was written to and read from a file of ImageNet-C."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=_JPEG_QUALITY)
    return Image.open(file)


def _library() -> Any:
    try:
        import cv2
        import imagecorruptions
    except ModuleNotFoundError as error:
        raise MissingExtraError(PACKAGE, "robustness") from error
    except ImportError as error:
        # OpenCV without the system's graphics libraries.
        raise FovealError(
            f"{PACKAGE} is installed and cannot be loaded ({error}); install what that names, or "
            "opencv-python-headless in the place of opencv-python."
        ) from error
    # OpenCV's threads do not survive the fork of a process that loads images.
    cv2.setNumThreads(0)
    return imagecorruptions
