"""Forty photographs: the model in the box learns four scenes from ten crops of each.

python benchmarks/forty_photographs.py FOLDER [SEED …]    # needs scikit-image for its pictures

Training crops come from the left two thirds of each picture, test crops from the right third.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data
from sklearn.linear_model import LogisticRegression

from foveal.recipes.catalogue import configure
from foveal.recipes.classification import ClassificationRun
from foveal.recipes.config import DataConfig
from foveal.tools.box import BOX

PICTURES, SIDE = ("astronaut", "cat", "coffee", "rocket"), 96
# The network sees a crop enlarged: its features are of things that fill 64 pixels.
IMAGE_SIZE = 160


def write_crops(root: Path) -> None:
    """FOLDER/{train,val}/PICTURE/NUMBER.png: 10 and 25 crops of each."""
    for name in PICTURES:
        picture = getattr(data, name)()
        height, width, _ = picture.shape
        for part, count, left, right in (
            ("train", 10, 0, width * 2 // 3),
            ("val", 25, width * 2 // 3, width),
        ):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            draw = np.random.default_rng(len(name) + count)
            for number in range(count):
                y, x = draw.integers(height - SIDE), draw.integers(left, right - SIDE)
                Image.fromarray(picture[y : y + SIDE, x : x + SIDE]).save(folder / f"{number}.png")


def mean_colours(root: Path, part: str) -> tuple[list[np.ndarray], list[str]]:
    files = sorted((root / part).rglob("*.png"))
    return [np.asarray(Image.open(f)).mean((0, 1)) / 255 for f in files], [
        f.parent.name for f in files
    ]


def main(root: Path, seed: int = 0) -> tuple[float, float]:
    """Top-1 in per cent of the fine-tuned model, and of a line through the mean colours."""
    write_crops(root / "crops")
    colours = LogisticRegression(C=100).fit(*mean_colours(root / "crops", "train"))
    baseline = 100 * float(colours.score(*mean_colours(root / "crops", "val")))
    config = configure("finetune", "efficientmod_xxs")
    # So few images teach a classifier, not a network.
    train = replace(
        config.train, epochs=20, batch_size=10, lr=1e-3, layer_decay=None, workers=0, seed=seed
    )
    given = DataConfig(path=str(root / "crops"))
    config = replace(
        config, checkpoint=str(BOX), data=given, image_size=IMAGE_SIZE, head_only=True, train=train
    )
    found = ClassificationRun(config, root / "run", overwrite=True).fit()
    print(f"fine-tuned {found.scores['top1']:.1f} %, mean colours {baseline:.1f} %")
    return found.scores["top1"], baseline


if __name__ == "__main__":
    for number in sys.argv[2:] or ["0"]:
        main(Path(sys.argv[1]), int(number))
