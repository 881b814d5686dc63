"""Segmenters small enough to take steps in a blink."""

from pathlib import Path
from typing import Any

import torch

from foveal.tasks.segmentation.contract import Segmenter
from foveal.tasks.segmentation.heads import create_segmenter
from foveal.tools.dense import DenseCard
from foveal.train.checkpoint import write_weights
from tests.models.families import SHALLOW, stir

NARROW: dict[str, dict[str, Any]] = {
    "upernet": {"channels": 16, "auxiliary_channels": 8},
    "semantic_fpn": {"channels": 32, "pyramid_channels": 16},
}


def small_segmenter(
    head: str, backbone: str = "focalnet_tiny_srf", num_classes: int = 5, **options: Any
) -> Segmenter:
    """A shallow backbone without stochastic depth under a narrow head."""
    torch.manual_seed(0)
    given = {**NARROW[head], "drop_path_rate": 0.0, "backbone_options": SHALLOW[backbone]}
    segmenter = create_segmenter(head, backbone, num_classes, **{**given, **options})
    stir(segmenter.pyramid())
    return segmenter


def batch(height: int, width: int, num_classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Two images and their labels, an eighth of them ignored."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, num_classes, (2, height, width), generator=generator)
    labels[:, : height // 8] = 255
    return torch.randn(2, 3, height, width, generator=generator), labels


def write_segmenter(folder: Path, backbone: str, **options: Any) -> Path:
    """A segmenter as a run leaves it, every weight away from its initial zero or one."""
    card = DenseCard(
        task="segmentation",
        head="semantic_fpn",
        model=backbone,
        options={**SHALLOW[backbone], **options},
        head_options={"pyramid_channels": 16, "channels": 32},
        classes=("sky", "house", "road"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    torch.manual_seed(0)
    model = card.build()
    stir(model.pyramid())
    with torch.no_grad():
        for key, value in model.named_parameters():
            # A fresh bias hardly moves a score.
            value.mul_(20 if "position_bias" in key else 1)
    write_weights(folder / "best.safetensors", model.state_dict(), card.to_metadata())
    return folder
