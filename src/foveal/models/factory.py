"""Networks by name."""

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import timm
from torch import Tensor, nn

# Importing a family registers its variants.
from foveal.models import cloformer, efficientmod, focalnet  # noqa: F401
from foveal.models.convert import from_official
from foveal.models.convert import to_official as _to_official
from foveal.models.family import FAMILIES, find_variant
from foveal.models.registry import PREFIX
from foveal.models.weights import WEIGHTS


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names of the networks.

    Args:
        pattern: shell-style, such as "transnext_*".
        pretrained: only what can be downloaded directly, one `name.tag` a checkpoint.
    """
    names = [name for family in FAMILIES for name in family.variants]
    if pretrained:
        names = [f"{name}.{w.tag}" for name in names for w in WEIGHTS.get(name, ()) if w.url]
    return [name for name in names if fnmatch(name, pattern)]


def create_model(
    name: str,
    pretrained: bool = False,
    *,
    features_only: bool = False,
    **options: Any,
) -> nn.Module:
    """A network by name, randomly initialised or pretrained."""
    variant = name.removeprefix(PREFIX).split(".", 1)[0]
    find_variant(variant)
    options = {**options, "features_only": features_only} if features_only else options
    return timm.create_model(PREFIX + name.removeprefix(PREFIX), pretrained=pretrained, **options)


def convert_state_dict(
    name: str, state_dict: Mapping[str, Tensor], *, to_official: bool = False
) -> dict[str, Tensor]:
    """An official state dict with our keys, or with `to_official` the other way round.

    Args:
        name: the variant, such as "focalnet_tiny_srf".
        state_dict: weights by key, with or without classifier. Buffers that the official networks
            compute are ignored on the way in and rebuilt on the way out.

    Raises:
        CheckpointError: keys are missing, or are not of this network.
    """
    family, config = find_variant(name)
    return (_to_official if to_official else from_official)(family, config, state_dict)
