"""Small mask folders for tests: bands of colour, each with its class."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("sky", "house", "road")
COLOURS = ((90, 140, 230), (180, 60, 40), (60, 60, 60))
SIZE = (40, 32)  # width, height


def bands(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Classes 0 to 2 from the top, the bounds depending on the number; the last row is ignored."""
    width, height = size
    rows = np.full((height, width), 2, np.uint8)
    rows[: height // 3 + number % 4] = 0
    rows[height // 3 + number % 4 : 2 * height // 3] = 1
    rows[-1] = 255
    return rows


def scene(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """The picture of `bands`."""
    colours = np.array([*COLOURS, (0, 0, 0)], np.uint8)
    return Image.fromarray(colours[np.minimum(bands(number, size), 3)])


def write_scene(root: Path, split: str, name: str, number: int) -> None:
    """One picture and its labels."""
    for kind in ("images", "labels"):
        (root / kind / split / name).parent.mkdir(parents=True, exist_ok=True)
    scene(number).save(root / "images" / split / f"{name}.png")
    Image.fromarray(bands(number)).save(root / "labels" / split / f"{name}.png")


def write_mask_folder(root: Path, train: int = 6, val: int = 2) -> Path:
    """images/SPLIT, labels/SPLIT and classes.json."""
    for split, count in (("train", train), ("val", val)):
        for number in range(count):
            write_scene(root, split, f"{number:03d}", number)
    content = {"classes": CLASSES, "ignore_index": 255}
    (root / "classes.json").write_text(json.dumps(content))
    return root
