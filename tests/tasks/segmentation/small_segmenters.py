"""Segmenters small enough to take steps in a blink."""

from typing import Any

import torch

from foveal.tasks.segmentation.contract import Segmenter
from foveal.tasks.segmentation.heads import create_segmenter
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
