"""Detectors learn eight images by heart: that the losses pull at what the figures measure."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from foveal.tasks.detection.heads import create_detector
from tests.tasks.detection.overfitting import Sample, learn, map50, sources

# Steps of four images, and the highest learning rate.
PLANS = {
    "faster_rcnn": (150, 1e-3),
    "mask_rcnn": (150, 1e-3),
    "cascade_rcnn": (150, 1e-3),
    "cascade_mask_rcnn": (150, 1e-3),
    "retinanet": (400, 1e-3),
    "fcos": (200, 1e-3),
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("source", list(sources()))
@pytest.mark.parametrize("head", PLANS)
def test_eight_images_are_learnt_by_heart(head: str, source: Callable[[], list[Sample]]) -> None:
    samples = source()
    assert len(samples) == 8
    torch.manual_seed(0)
    options: dict[str, Any] = {"fpn_channels": 64}
    if "rcnn" in head:
        options |= {
            "representation_size": 256,
            "rpn_post_nms_top_n_train": 300,
            "rpn_post_nms_top_n_test": 300,
            "box_batch_size_per_image": 128,
        }
    elif head == "retinanet":
        options["detections_per_img"] = 100
    shallow = {"embed_dim": 32, "depths": (1, 1, 2, 1)}
    detector = create_detector(head, "focalnet_tiny_srf", 3, backbone_options=shallow, **options)
    # It knows nothing before.
    assert map50(detector, samples) < 0.1
    steps, rate = PLANS[head]
    learn(detector, samples, steps=steps, rate=rate)
    assert map50(detector, samples) >= 0.9
    if detector.has_masks:
        assert map50(detector, samples, "segm") >= 0.8
