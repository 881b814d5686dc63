"""Segmenters by the name of their head."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from foveal.errors import OptionError, closest
from foveal.models.pyramid import Pyramid
from foveal.tasks.segmentation.contract import Segmenter
from foveal.tasks.segmentation.mask_transformers import MASK_TRANSFORMER_HEADS
from foveal.tasks.segmentation.smp_heads import SMP_HEADS

# From a pyramid, the number of classes and options of its own to a segmenter.
HEADS: dict[str, Callable[..., Segmenter]] = {**SMP_HEADS, **MASK_TRANSFORMER_HEADS}


def find_head(head: str) -> Callable[..., Segmenter]:
    """What makes the head of that name.

    Raises:
        OptionError: there is none; the message has the nearest.
    """
    if head not in HEADS:
        raise OptionError(
            f"There is no segmentation head {head!r}.{closest(head, HEADS)} "
            f"The heads are {', '.join(HEADS)}."
        )
    return HEADS[head]


def create_segmenter(
    head: str,
    backbone: str,
    num_classes: int,
    *,
    ignore_index: int = 255,
    pretrained: bool = False,
    checkpoint: str | None = None,
    drop_path_rate: float | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    **head_options: Any,
) -> Segmenter:
    """A segmenter by the names of its head and of its backbone.

    Args:
        head: one of `HEADS`.
        backbone: as for `foveal.create_model`, "timm:NAME" for timm's.
        num_classes: kinds of things.
        ignore_index: label of pixels that do not count.
        pretrained: load the backbone's published weights.
        checkpoint: a file of classification weights for the backbone instead.
        drop_path_rate: of the backbone; None for its own default.
        backbone_options: others of the backbone.
        **head_options: of the head; see its builder.

    Raises:
        OptionError: an unknown head, or an option that it or the backbone does not have.
    """
    builder = find_head(head)
    _require_classes(num_classes, ignore_index)
    _require_options(head, head_options)
    options = dict(backbone_options or {})
    if drop_path_rate is not None:
        options["drop_path_rate"] = drop_path_rate
    pyramid = Pyramid(backbone, pretrained=pretrained, checkpoint=checkpoint, **options)
    return builder(pyramid, num_classes, ignore_index=ignore_index, **head_options)


def _require_classes(num_classes: int, ignore_index: int) -> None:
    if num_classes < 2:
        raise OptionError(f"A segmenter tells 2 classes or more apart, got {num_classes}.")
    if 0 <= ignore_index < num_classes:
        raise OptionError(
            f"ignore_index {ignore_index} is one of the {num_classes} classes, so that class would "
            f"never be learned; give a number from {num_classes} up, or -1."
        )


def _require_options(head: str, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(HEADS[head]).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "ignore_index"]
    for name in options:
        if name not in known:
            raise OptionError(
                f"{head} has no option {name!r}; its options are {', '.join(known)}."
                f"{closest(name, known)}"
            )
