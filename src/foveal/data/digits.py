"""The 1,797 scans of handwritten digits that come with scikit-learn: real data, no download."""

import numpy as np
from PIL import Image

from foveal.data.dataset import LabelledImages, Samples
from foveal.data.split import stratified_split
from foveal.errors import MissingExtraError

# Scans count ink per cell, from 0 to 16.
_FULL_INK = 16


def load_digits(*, held_out: float = 0.25, seed: int = 0) -> LabelledImages:
    """The scans as 8×8 grey images, a stratified share held out.

    Args:
        held_out: share of every digit to judge by.
        seed: of that choice.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "train") from error
    scans, labels = load(return_X_y=True)
    ink = np.clip(scans.reshape(-1, 8, 8) / _FULL_INK * 255, 0, 255).round().astype(np.uint8)
    samples = Samples(
        [Image.fromarray(scan) for scan in ink],
        [int(label) for label in labels],
        [f"scan {number}" for number in range(len(labels))],
    )
    kept, held = stratified_split(samples.labels, held_out, seed)
    classes = tuple(str(digit) for digit in range(10))
    train, val = samples.take(kept), samples.take(held)
    return LabelledImages(classes, train, val, found="scikit-learn's digits")
