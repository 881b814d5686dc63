"""Published checkpoints: where they are, under which licence, and what they score. Data only."""

from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One published checkpoint.

    Attributes:
        tag: name after the variant's, `transnext_small.in1k_384`.
        url: direct link, or None where none exists.
        obtain: where the file can be had without a direct link.
        licence: SPDX identifier.
        paper: arXiv number.
        input_size: side in pixels it is meant for.
        crop_pct: share of the resized side that the centre crop keeps.
        num_classes: outputs of its classifier.
        top1: published ImageNet-1K top-1 in per cent, None where none is published.
    """

    tag: str
    url: str | None = None
    obtain: str = ""
    licence: str
    paper: str
    input_size: int = 224
    crop_pct: float = 0.9
    num_classes: int = 1000
    top1: float | None = None


WEIGHTS: dict[str, tuple[Weights, ...]] = {}


def timm_cfg(weights: Weights, reduction: int) -> dict[str, Any]:
    """timm's record of a checkpoint, for a network whose last map has one cell per `reduction`."""
    side = weights.input_size
    return {
        "url": weights.url,
        "num_classes": weights.num_classes,
        "input_size": (3, side, side),
        "min_input_size": (3, 32, 32),
        "pool_size": (side // reduction, side // reduction),
        "crop_pct": weights.crop_pct,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.proj",
        "classifier": "head.fc",
        "license": weights.licence,
        "paper_ids": f"arXiv:{weights.paper}",
    }
