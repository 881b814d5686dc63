"""Networks by name."""

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import timm
from timm.models import PretrainedCfg
from torch import Tensor, nn

from foveal.errors import OptionError, closest

# Importing a family registers its variants.
from foveal.models import cloformer, dat, efficientmod, focalnet, transnext  # noqa: F401
from foveal.models.ablations import BODIES as ABLATED
from foveal.models.convert import from_official
from foveal.models.convert import to_official as _to_official
from foveal.models.family import FAMILIES, Family, find_variant
from foveal.models.metaformer import BODIES as NEUTRAL
from foveal.models.registry import PREFIX, build
from foveal.models.weights import UNPUBLISHED, WEIGHTS, timm_cfg

OF_TIMM = "timm:"
# Networks known to Foveal alone, as nobody has published weights of them.
_BODIES: dict[str, Family] = {name: body for body in (NEUTRAL, *ABLATED) for name in body.variants}


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
    """A network by name, randomly initialised or pretrained.

    Args:
        name: one of `list_models()`, with a checkpoint's tag if wanted
            ("transnext_small.in1k_384"), or "metaformer_tiny", a body for any `mixer`,
            the model of a row of `foveal.models.ablations.ABLATIONS`, or "timm:NAME" for any of
            timm's own, to compare with.
        pretrained: download and load the published weights.
        features_only: a timm feature network: the maps of `out_indices` instead of logits.
        **options: `num_classes`, `in_chans`, `out_indices`, `drop_path_rate`, `device`, `dtype`,
            and every option of the family's config.

    Raises:
        FovealError: unknown name; the message has the closest.
        OptionError: an option the family does not have; the message has the right ones.
    """
    options = {**options, "features_only": features_only} if features_only else options
    if name in _BODIES:
        return _create_body(name, pretrained, options)
    if name.startswith(OF_TIMM):
        return _create_of_timm(name.removeprefix(OF_TIMM), pretrained, options)
    find_variant(name.removeprefix(PREFIX).split(".", 1)[0])
    return timm.create_model(PREFIX + name.removeprefix(PREFIX), pretrained=pretrained, **options)


def _create_of_timm(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """A network of timm's."""
    if not timm.is_model(name):
        known = timm.list_models(exclude_filters=f"{PREFIX}*")
        raise OptionError(f"timm has no network {name!r}.{closest(name, known)}")
    return timm.create_model(name, pretrained=pretrained, **options)


def _create_body(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """A network that is neither listed nor registered with timm."""
    if pretrained:
        raise OptionError(f"{name} has no published weights; create it with pretrained=False.")
    cfg = PretrainedCfg(**timm_cfg(UNPUBLISHED, 32)).to_dict()
    family = _BODIES[name]
    return build(family, family.variants[name], name, cfg, options)


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
