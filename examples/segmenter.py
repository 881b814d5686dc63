"""A segmenter: Semantic FPN on the model in the box, taught in a minute to tell sky, wall and road.

python examples/segmenter.py [--steps N] [--output FILE.png]
"""

import argparse

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from foveal.tasks.segmentation.heads import create_segmenter
from foveal.tools.box import BOX
from foveal.tools.report.class_colours import class_colours
from foveal.tools.segment import SegmentInference, segment

CLASSES = ("sky", "wall", "road")
parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--output", default="segmenter.png")


def drawn(number: int, side: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture of three slanting bands in [0, 255], and the class of every pixel."""
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:side, :side] / side
    height = y + rng.uniform(-0.4, 0.4) * (x - 0.5)
    upper, lower = rng.uniform(0.2, 0.45), rng.uniform(0.55, 0.8)
    classes = (height > upper).astype(int) + (height > lower)
    colours = np.array([[150, 190, 240], [170, 110, 90], [90, 90, 95]])[classes]
    return (colours + rng.normal(0, 25, colours.shape)).clip(0, 255), classes


def batch(numbers: range) -> tuple[Tensor, Tensor]:
    """Images in [-1, 1] and their labels."""
    pictures, labels = map(np.stack, zip(*map(drawn, numbers), strict=True))
    return torch.tensor(pictures).float().movedim(-1, 1) / 127.5 - 1, torch.tensor(labels)


if __name__ == "__main__":
    options = parser.parse_args()
    torch.manual_seed(0)
    segmenter = create_segmenter(
        "semantic_fpn", "efficientmod_xxs", len(CLASSES), checkpoint=str(BOX), channels=64
    )
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=1e-3)
    for step in range(options.steps):
        images, labels = batch(range(4 * step + 1, 4 * step + 5))
        loss = torch.stack([*segmenter(images, labels).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = batch(range(1))
    seen = segment(segmenter, images, SegmentInference(flip=True))[0]
    pair = np.hstack([drawn(0)[0].astype(np.uint8), class_colours(len(CLASSES))[seen]])
    Image.fromarray(pair).save(options.output)
    print(f"{(seen == labels[0].numpy()).mean():.1%} of the pixels; {options.output}")
