"""Which layout a state dict has, ours, the official one or timm's, and its weights by our keys."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from foveal.errors import CheckpointError
from foveal.models.backbone import Backbone, BackboneConfig
from foveal.models.convert import rename_keys
from foveal.models.family import FAMILIES, Family, Rename, find_variant

# The share of key patterns a family must know to be called the file's family.
_LOOKS_LIKE = 0.6

_BLOCK, _OURS = "layers.{s}.blocks.{b}.", "stages.{s}.blocks.{b}."

# timm's own implementations of a family, by the family's class: timm's prefixes and ours.
_TIMM: dict[str, list[Rename]] = {
    "FocalNet": [
        Rename("stem.", "stem."),
        Rename("layers.{s}.downsample.", "stages.{s}.downsample."),
        Rename(f"{_BLOCK}modulation.focal_layers.{{l}}.0.", f"{_OURS}mixer.focal_layers.{{l}}."),
        Rename(f"{_BLOCK}modulation.", f"{_OURS}mixer."),
        Rename(f"{_BLOCK}mlp.", f"{_OURS}channel_mixer."),
        Rename(f"{_BLOCK}ls{{i}}.", f"{_OURS}layer_scale{{i}}."),
        Rename(f"{_BLOCK}norm{{i}}_post.", f"{_OURS}norm{{i}}."),
        Rename(f"{_BLOCK}norm{{i}}.", f"{_OURS}norm{{i}}."),
        Rename("norm.", "norm."),
        Rename("head.fc.", "head.fc."),
    ],
}


@dataclass(frozen=True)
class Reading:
    """A state dict read in one layout.

    Attributes:
        layout: "Foveal", "official" or "timm".
        weights: by our keys.
        unknown: keys that the layout does not have, as they are in the file.
        fit: share of the file's key patterns that the network has, in [0, 1].
        exact: share of its keys that the network has in the same size, in [0, 1].
    """

    layout: str
    weights: dict[str, Tensor]
    unknown: list[str]
    fit: float
    exact: float


def read_layout(model: Backbone, state_dict: Mapping[str, Tensor]) -> Reading:
    """A state dict's weights by the keys of `model`, whichever layout they come in.

    Raises:
        CheckpointError: the keys are those of another family, or of none.
    """
    family = _family(model)
    sizes = {key: value.numel() for key, value in model.state_dict().items()}
    reading = _read(family, model.config, sizes, state_dict)
    if reading.fit < 1:
        likeness = _likeness(state_dict)
        if likeness and likeness[0] is not family and likeness[1].fit > reading.fit:
            other, theirs = likeness
            raise CheckpointError(
                f"The checkpoint is not of the model's family: its keys, such as "
                f"{_examples(state_dict)}, do not fit {type(model).__name__}; they look like "
                f"those of {other.backbone.__name__} in {_name(theirs.layout)} layout."
            )
        if reading.fit < _LOOKS_LIKE:
            raise CheckpointError(
                f"The checkpoint is not one of {type(model).__name__}, nor of any network that "
                f"Foveal knows: keys such as {_examples(state_dict)} do not fit."
            )
    return reading


def closest_variant(model: Backbone, state_dict: Mapping[str, Tensor]) -> str | None:
    """The variant of the model's family whose keys and sizes a state dict has, if there is one."""
    family = _family(model)
    best, name = 0.9, None
    for variant, config in family.variants.items() if family else ():
        exact = _read(family, config, _variant_sizes(variant), state_dict).exact
        if exact > best:
            best, name = exact, variant
    return name


def _family(model: Backbone) -> Family | None:
    return next((family for family in FAMILIES if type(model) is family.backbone), None)


def _likeness(state_dict: Mapping[str, Tensor]) -> tuple[Family, Reading] | None:
    """The family whose key patterns a state dict has."""
    best: tuple[Family, Reading] | None = None
    for family in FAMILIES:
        for variant, config in family.variants.items():
            reading = _read(family, config, _variant_sizes(variant), state_dict)
            if reading.fit >= _LOOKS_LIKE and (best is None or reading.fit > best[1].fit):
                best = (family, reading)
            if reading.fit == 1:
                return best
    return best


def _read(
    family: Family | None,
    config: BackboneConfig,
    network: Mapping[str, int],
    state_dict: Mapping[str, Tensor],
) -> Reading:
    """The reading that fits a network best; ours where two fit alike."""
    readings = [_judge("Foveal", dict(state_dict), [], network)]
    if family is not None:
        held = {k: v for k, v in state_dict.items() if not family.is_computed(k)}
        official = rename_keys(held, family.renames(config))
        readings.append(_judge("official", *official, network))
        timm = rename_keys(state_dict, _TIMM.get(family.backbone.__name__, []))
        readings.append(_judge("timm", *timm, network))
    return max(readings, key=lambda reading: (reading.fit, reading.exact))


def _judge(
    layout: str,
    weights: dict[str, Tensor],
    unknown: list[str],
    network: Mapping[str, int],
) -> Reading:
    theirs, ours = _patterns(weights), _patterns(network)
    strange = _patterns(unknown)
    same = [k for k, v in weights.items() if k in network and v.numel() == network[k]]
    return Reading(
        layout,
        weights,
        unknown,
        fit=len(theirs & ours) / max(1, len(theirs) + len(strange)),
        exact=len(same) / max(1, len(weights) + len(unknown)),
    )


@lru_cache
def _variant_sizes(variant: str) -> dict[str, int]:
    """A published network's keys and numbers of values; nothing is allocated."""
    family, config = find_variant(variant)
    network = family.backbone(config, device="meta").state_dict()
    return {key: value.numel() for key, value in network.items()}


def _patterns(keys: Iterable[str]) -> set[str]:
    """Keys with their numbers left out, without the classifier's, which come and go."""
    return {re.sub(r"\d+", "#", key) for key in keys if not key.startswith("head.")}


def _examples(state_dict: Mapping[str, Tensor]) -> str:
    keys = [key for key in state_dict if not key.startswith("head.")]
    return " and ".join(keys[len(keys) // 2 :][:2])


def _name(layout: str) -> str:
    return {"Foveal": "Foveal's", "official": "the official", "timm": "timm's"}[layout]
