"""Detectors small enough to be trained and saved many times over, and something for them to see."""

from typing import Any

import torch
from torch import Tensor

from foveal.tasks.detection.contract import Detector, Target
from foveal.tasks.detection.heads import create_detector
from tests.models.families import SHALLOW

RCNN: dict[str, Any] = {
    "fpn_channels": 32,
    "representation_size": 64,
    "rpn_post_nms_top_n_train": 100,
    "rpn_post_nms_top_n_test": 50,
    "box_batch_size_per_image": 64,
    "box_detections_per_img": 20,
}
SMALL: dict[str, dict[str, Any]] = {"retinanet": {"fpn_channels": 32}, "fcos": {"fpn_channels": 64}}


def small_detector(
    head: str, backbone: str = "focalnet_tiny_srf", *, seed: int = 0, **options: Any
) -> Any:
    """For three classes, with weights that depend on the seed alone; in training mode."""
    torch.manual_seed(seed)
    shallow = {**SHALLOW.get(backbone, {}), **options.pop("backbone_options", {})}
    return create_detector(
        head, backbone, 3, backbone_options=shallow, **{**SMALL.get(head, RCNN), **options}
    )


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    """Noise of the given heights and widths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


def objects(height: int, width: int, count: int = 2) -> Target:
    """`count` objects, at most two, well inside an image, with masks that fill their boxes."""
    unit = torch.tensor([[0.05, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.95]])[:count]
    boxes = (unit * torch.tensor([width, height, width, height])).round()
    masks = torch.zeros(count, height, width, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    return Target(boxes=boxes, labels=torch.tensor([0, 2])[:count], masks=masks)


def losses(
    detector: Detector, images: list[Tensor], targets: list[Target], seed: int = 0
) -> dict[str, Tensor]:
    """The detector's, with samples that depend on the seed alone."""
    torch.manual_seed(seed)
    result = detector(images, targets)
    assert isinstance(result, dict)
    return result
