"""Small labelled pictures for tests: each class has its own colour and stripes."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 40, 220), "green": (30, 200, 40), "red": (220, 30, 40)}


def picture(name: str, number: int, side: int = 40) -> Image.Image:
    """The picture with this number of a class."""
    noise = np.random.default_rng(number).integers(-25, 25, (side, side, 3))
    return Image.fromarray(np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8))


def write_folder(root: Path, per_class: int = 10, start: int = 0) -> Path:
    """FOLDER/CLASS/NUMBER.png for every class."""
    for name in COLOURS:
        (root / name).mkdir(parents=True)
        for number in range(start, start + per_class):
            picture(name, number).save(root / name / f"{number:03d}.png")
    return root
