"""The five families at 4 to 5 million parameters, by their own options, and the option of size.

What a family is at a size that one GPU trains in an evening: channels in the family's own
proportions, heads as wide as the family's (or as near as the channels allow), blocks shared out
among the stages as in its variants. EfficientMod-xxs and CloFormer-xxs are that small as published.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ScaledModel:
    """`foveal.create_model(model, num_classes=…, **options)`.

    Attributes:
        model: name of the network that is scaled.
        options: plain values: what differs from it.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)


# Half of micro's channels and heads, so that a head has 24 of them as in the paper.
_TRANSNEXT = {"embed_dims": (24, 48, 96, 192), "num_heads": (1, 2, 4, 8)}

SCALED: dict[str, ScaledModel] = {
    "focalnet_4m": ScaledModel(model="focalnet_tiny_srf", options={"embed_dim": 40}),
    "transnext_4m": ScaledModel(
        model="transnext_micro", options={**_TRANSNEXT, "depths": (2, 2, 22, 2)}
    ),
    "dat_4m": ScaledModel(
        model="dat_tiny",
        options={
            "dims": (40, 80, 160, 320),
            "num_heads": (1, 2, 4, 8),
            "num_groups": (1, 1, 1, 2),
        },
    ),
    "dat_pp_4m": ScaledModel(
        model="dat_pp_tiny",
        options={
            "dims": (32, 64, 128, 256),
            "depths": (2, 4, 10, 2),
            "num_heads": (1, 2, 4, 8),
            "num_groups": (1, 1, 2, 4),
        },
    ),
    "efficientmod_xxs": ScaledModel(model="efficientmod_xxs"),
    "cloformer_xxs": ScaledModel(model="cloformer_xxs"),
    # For the road from PVT, whose eight networks are trained one after the other.
    "transnext_2m": ScaledModel(
        model="transnext_micro", options={**_TRANSNEXT, "depths": (2, 2, 6, 2)}
    ),
}

# The option by which a network with position tables learns the side, in pixels, of its images.
_SIZE_OPTIONS = {"transnext": "pretrain_size", "dat": "img_size", "metaformer": "img_size"}


def size_options(model: str, side: int) -> dict[str, int]:
    """The option that calibrates a network to images of `side` pixels; none if it has no tables.

    Args:
        model: name of a network, a body or an ablation.
        side: of the training images, in pixels.
    """
    option = _SIZE_OPTIONS.get(model.split("_", maxsplit=1)[0])
    return {option: side} if option else {}
