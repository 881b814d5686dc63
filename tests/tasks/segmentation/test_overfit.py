"""Every head learns eight photographs by heart.

The photographs are of the folder that the environment variable FOVEAL_CAMVID names:
`images/train`, `labels/train` (one PNG of class numbers an image) and `classes.json`.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor

from foveal.tasks.segmentation.heads import create_segmenter
from foveal.tasks.segmentation.smp_heads import SMP_HEADS
from foveal.tasks.segmentation.task import Segmentation
from tests.tasks.segmentation.small_segmenters import NARROW

SIDE, COUNT, STEPS = 256, 8, 240


def photographs() -> tuple[Tensor, Tensor, int, int]:
    """The first eight, their labels, the number of classes and the ignored label."""
    folder = os.environ.get("FOVEAL_CAMVID")
    if not folder:
        pytest.skip("FOVEAL_CAMVID does not name a folder of photographs and labels")
    root = Path(folder)
    about = json.loads((root / "classes.json").read_text())
    images, labels = [], []
    for path in sorted((root / "images" / "train").iterdir())[:COUNT]:
        label = Image.open(root / "labels" / "train" / f"{path.stem}.png")
        image = ImageOps.fit(Image.open(path).convert("RGB"), (SIDE, SIDE))
        images.append(torch.from_numpy(np.array(image)).movedim(-1, 0) / 255)
        fitted = ImageOps.fit(label, (SIDE, SIDE), Image.Resampling.NEAREST)
        labels.append(torch.from_numpy(np.array(fitted)).long())
    pixels = torch.stack(images)
    mean, std = pixels.mean((0, 2, 3), keepdim=True), pixels.std((0, 2, 3), keepdim=True)
    return (pixels - mean) / std, torch.stack(labels), len(about["classes"]), about["ignore_index"]


@pytest.mark.slow
@pytest.mark.parametrize("head", SMP_HEADS)
def test_eight_photographs_are_learned_by_heart(head: str):
    images, labels, num_classes, ignore_index = photographs()
    torch.manual_seed(0)
    segmenter = create_segmenter(
        head,
        "focalnet_tiny_srf",
        num_classes,
        ignore_index=ignore_index,
        drop_path_rate=0.0,
        backbone_options={"depths": (1, 1, 1, 1), "embed_dim": 32},
        **{name: 2 * width for name, width in NARROW[head].items()},
    ).train()
    task = Segmentation(num_classes, ignore_index)
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=2e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS)
    losses = []
    for step in range(STEPS):
        rows = torch.arange(4) + 4 * (step % 2)
        loss = task.loss(segmenter, {"image": images[rows], "label": labels[rows]})
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    meter = task.meter()
    with torch.inference_mode():
        meter.update(task.predict(segmenter.eval(), {"image": images, "label": labels}))
    print(f"{head}: {meter.scores()}, loss {losses[0]:.3f} to {losses[-1]:.3f}")
    assert np.median(losses[-20:]) <= 0.5 * np.median(losses[:20])
    assert meter.scores()["aacc"] >= 95
