"""Detectors by name, on any backbone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from foveal.errors import OptionError, closest
from foveal.models.pyramid import Pyramid
from foveal.tasks.detection.cascade import cascade_mask_rcnn, cascade_rcnn
from foveal.tasks.detection.contract import Detector
from foveal.tasks.detection.detr import DETR_HEADS
from foveal.tasks.detection.torchvision_heads import faster_rcnn, fcos, mask_rcnn, retinanet

Builder = Callable[..., Detector]

TORCHVISION_HEADS: dict[str, Builder] = {
    "mask_rcnn": mask_rcnn,
    "faster_rcnn": faster_rcnn,
    "cascade_mask_rcnn": cascade_mask_rcnn,
    "cascade_rcnn": cascade_rcnn,
    "retinanet": retinanet,
    "fcos": fcos,
}

# From a ready `Pyramid`, the number of classes and a head's own options to a detector.
HEADS: dict[str, Builder] = {**TORCHVISION_HEADS, **DETR_HEADS}

# Those that learn from masks, too.
MASK_HEADS = ("mask_rcnn", "cascade_mask_rcnn")

# Heads with a second stage look at cells of 4 pixels too; the papers' others start at 8.
_FROM_4_PIXELS = (*MASK_HEADS, "faster_rcnn", "cascade_rcnn")


def find_head(head: str) -> Builder:
    """What makes the head of that name.

    Raises:
        OptionError: there is none; the message has the nearest.
    """
    if head not in HEADS:
        raise OptionError(
            f"There is no detection head {head!r}.{closest(head, HEADS)} "
            f"The heads are {', '.join(HEADS)}."
        )
    return HEADS[head]


def create_detector(
    head: str,
    backbone: str,
    num_classes: int,
    *,
    pretrained: bool = False,
    checkpoint: str | None = None,
    drop_path_rate: float | None = None,
    out_indices: Sequence[int] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    **head_options: Any,
) -> Detector:
    """A detector by the names of its head and of its backbone.

    Args:
        head: one of `HEADS`.
        backbone: as for `foveal.create_model`, "timm:NAME" for timm's.
        num_classes: kinds of objects, background not counted.
        pretrained: load the backbone's published weights.
        checkpoint: a file of classification weights for the backbone.
        drop_path_rate: stochastic depth of the backbone; None for its own.
        out_indices: stages whose maps the head gets; None for those of its paper.
        backbone_options: every other option of the network.
        **head_options: of the head.

    Raises:
        OptionError: an unknown head or option, or a number of classes below 1.
    """
    builder = find_head(head)
    if num_classes < 1:
        raise OptionError(f"num_classes is 1 or more, background not counted; got {num_classes}.")
    options = dict(backbone_options or {})
    if drop_path_rate is not None:
        options["drop_path_rate"] = drop_path_rate
    default = (0, 1, 2, 3) if head in _FROM_4_PIXELS else (1, 2, 3)
    pyramid = Pyramid(
        backbone,
        out_indices=default if out_indices is None else out_indices,
        pretrained=pretrained,
        checkpoint=checkpoint,
        **options,
    )
    return builder(pyramid, num_classes, **head_options)
