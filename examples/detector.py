"""A detector: FCOS on the model in the box, taught in a minute to find discs and squares.

python examples/detector.py [--steps N] [--output FILE.png]
"""

import argparse
import random

import torch
from PIL import Image, ImageDraw
from torchvision.transforms.v2.functional import pil_to_tensor

from foveal.tasks.detection.contract import Target
from foveal.tasks.detection.heads import create_detector
from foveal.tools.box import BOX
from foveal.tools.report.objects import Drawing, drawn_objects

CLASSES = ("disc", "square")
parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=120)
parser.add_argument("--output", default="detector.png")


def drawn(number: int, side: int = 128) -> tuple[Image.Image, Target]:
    """A picture with a shape in each half, and where they are."""
    draw = random.Random(number)
    picture = Image.new("RGB", (side, side), (70, 90, 80))
    boxes, labels = [], []
    for left in (0, side // 2):
        size = draw.randint(24, 56)
        x, y = left + draw.randint(0, side // 2 - size), draw.randint(0, side - size)
        label = draw.randrange(2)
        boxes.append([x, y, x + size, y + size])
        shape = ImageDraw.Draw(picture)
        (shape.rectangle if label else shape.ellipse)(boxes[-1], (230, 200, 90))
        labels.append(label)
    return picture, Target(boxes=torch.tensor(boxes).float(), labels=torch.tensor(labels))


if __name__ == "__main__":
    options = parser.parse_args()
    torch.manual_seed(0)
    detector = create_detector("fcos", "efficientmod_xxs", 2, checkpoint=str(BOX), fpn_channels=64)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    for step in range(options.steps):
        pictures, targets = zip(*(drawn(4 * step + n) for n in range(4)), strict=True)
        losses = detector([pil_to_tensor(p) / 127.5 - 1 for p in pictures], list(targets))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    picture, _ = drawn(-1)
    with torch.inference_mode():
        (found,) = detector.eval()([pil_to_tensor(picture) / 127.5 - 1])
    sure = [index for index, score in enumerate(found["scores"]) if score >= 0.4]
    boxes, labels = found["boxes"][sure].numpy(), found["labels"][sure].tolist()
    names = [CLASSES[label] for label in labels]
    drawn_objects(picture, Drawing(boxes, labels, names), 512).save(options.output)
    print(names, options.output)
