"""Eight images that a detector has to learn by heart, and how well it did."""

import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision
from torchvision.transforms.v2 import functional

from foveal.tasks.detection.contract import Detector, Target

COUNT, SIDE, MOST_BOXES = 8, 256, 12
# A folder in COCO's format, with train.json and images/.
REAL = "FOVEAL_BCCD"

Sample = tuple[Tensor, Target]


def painted() -> list[Sample]:
    """Noise with ellipses of three colours, one to four an image."""
    generator = torch.Generator().manual_seed(0)
    samples = []
    for index in range(COUNT):
        image = torch.randn(3, SIDE, SIDE, generator=generator) * 0.3
        count = index % 4 + 1
        # A quarter of the image each, so that none hides another.
        corners = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])[:count] * (SIDE // 2)
        sides = torch.randint(20, 100, (count, 2), generator=generator)
        start = corners + torch.randint(5, 25, (count, 2), generator=generator)
        boxes = torch.cat([start, start + sides], 1).float()
        labels = torch.randint(0, 3, (count,), generator=generator)
        masks = ellipses(boxes)
        for mask, label in zip(masks, labels.tolist(), strict=True):
            image[label, mask] += 2
        samples.append((image, Target(boxes=boxes, labels=labels, masks=masks)))
    return samples


def photographed(folder: Path) -> list[Sample]:
    """The first images with few enough boxes, squeezed to a square; masks are ellipses."""
    coco = json.loads((folder / "train.json").read_text())
    of: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for annotation in coco["annotations"]:
        of[annotation["image_id"]].append(annotation)
    category = {entry["id"]: index for index, entry in enumerate(coco["categories"])}
    samples = []
    for record in coco["images"]:
        found = of[record["id"]]
        if not 2 <= len(found) <= MOST_BOXES or len(samples) == COUNT:
            continue
        picture = Image.open(folder / "images" / record["file_name"]).convert("RGB")
        scale = torch.tensor([SIDE / picture.width, SIDE / picture.height]).repeat(2)
        corners = torch.tensor([a["bbox"] for a in found])
        corners[:, 2:] += corners[:, :2]
        boxes = (corners * scale).clamp(0, SIDE)
        image = functional.to_image(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        labels = torch.tensor([category[a["category_id"]] for a in found])
        samples.append(
            (
                image.as_subclass(Tensor).float() / 127.5 - 1,
                Target(boxes=boxes, labels=labels, masks=ellipses(boxes)),
            )
        )
    return samples


def ellipses(boxes: Tensor) -> Tensor:
    """Masks (n, SIDE, SIDE) of the ellipses inscribed in the boxes."""
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    place = torch.arange(SIDE) + 0.5
    x = (place - centre[:, :1]) / half[:, :1]
    y = (place - centre[:, 1:]) / half[:, 1:]
    return x[:, None, :].square() + y[:, :, None].square() <= 1


def sources() -> Iterator[Any]:
    """Painted images always, real ones where there are some, and a visible skip elsewhere."""
    import pytest

    yield pytest.param(painted, id="painted")
    folder = os.environ.get(REAL)
    absent = pytest.mark.skipif(not folder, reason=f"{REAL} names no folder of real images")
    yield pytest.param(lambda: photographed(Path(folder or ".")), id="real", marks=absent)


def learn(
    detector: Detector, samples: Sequence[Sample], *, steps: int, rate: float, batch: int = 4
) -> list[float]:
    """Train on the samples over and over; gives the loss of each step."""
    torch.manual_seed(0)
    detector.train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.1)
    history = []
    for step in range(steps):
        chosen = [samples[(step * batch + i) % len(samples)] for i in range(batch)]
        parts = detector([image for image, _ in chosen], [target for _, target in chosen])
        assert isinstance(parts, dict)
        loss = torch.stack(list(parts.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        history.append(loss.item())
    return history


@torch.no_grad()
def map50(detector: Detector, samples: Sequence[Sample], kind: str = "bbox") -> float:
    """Mean average precision at an overlap of 0.5, of boxes ("bbox") or masks ("segm")."""
    detector.eval()
    metric: Any = MeanAveragePrecision(
        iou_type=kind,  # pyright: ignore[reportArgumentType]
        iou_thresholds=[0.5],
        backend="faster_coco_eval",
    )
    for image, target in samples:
        metric.update([dict(found) for found in detector.find([image])], [dict(target)])
    return metric.compute()["map_50"].item()
