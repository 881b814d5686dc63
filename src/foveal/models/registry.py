"""One entry point a variant: with timm as `foveal_NAME`, and as NAME where that is free."""

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from timm.models._builder import resolve_pretrained_cfg
from torch import nn

from foveal.errors import FovealError, OptionError, closest
from foveal.models.backbone import Backbone, BackboneConfig
from foveal.models.family import FAMILIES, Family
from foveal.models.pretrained import load_pretrained
from foveal.models.weights import WEIGHTS, timm_cfg

PREFIX = "foveal_"

# What timm passes along that is no option of a network.
_TIMM_ARGUMENTS = ("features_only", "out_indices", "feature_cls", "pretrained_model_args")

ENTRYPOINTS: dict[str, Callable[..., nn.Module]] = {}
default_cfgs: dict[str, Any] = {}


def register(family: Family) -> None:
    """Make every variant of `family` known to `foveal.create_model` and to timm."""
    FAMILIES.append(family)
    for variant, config in family.variants.items():
        name = PREFIX + variant
        default_cfgs.update(_default_cfgs(name, variant, config))
        ENTRYPOINTS[variant] = _register_with_timm(name, family, config)
        if not is_model(variant):
            default_cfgs.update(_default_cfgs(variant, variant, config))
            _register_with_timm(variant, family, config)


def _register_with_timm(name: str, family: Family, config: BackboneConfig) -> Callable[..., Any]:
    def entrypoint(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: str | None = None,
        **options: Any,
    ) -> nn.Module:
        if isinstance(pretrained_cfg, str):
            _require_tag(name, pretrained_cfg)
        cfg = resolve_pretrained_cfg(name, pretrained_cfg, pretrained_cfg_overlay).to_dict()
        return build(family, config, name, cfg, options, pretrained=pretrained, cache_dir=cache_dir)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"{family.backbone.__name__}, {name.removeprefix(PREFIX)}."
    setattr(sys.modules[__name__], name, entrypoint)
    return register_model(entrypoint)


def _require_tag(name: str, tag: str) -> None:
    tags = list(default_cfgs[name].tags) if name in default_cfgs else []
    if tag not in tags:
        raise FovealError(
            f"{name.removeprefix(PREFIX)} has no weights tagged {tag!r}.{closest(tag, tags)} "
            f"Its tags are {', '.join(tags) or 'none'}."
        )


def build(
    family: Family,
    config: BackboneConfig,
    name: str,
    cfg: dict[str, Any],
    options: dict[str, Any],
    *,
    pretrained: bool = False,
    cache_dir: str | None = None,
) -> nn.Module:
    """A network from its published config and a user's options, through timm's builder."""

    def construct(device: Any = None, dtype: Any = None, **own: Any) -> Backbone:
        model = family.backbone(configure(config, own, name), device=device, dtype=dtype)
        if pretrained:
            load_pretrained(model, cfg, cache_dir)
        return model

    features = (
        {"out_indices": 3, "feature_cls": "getter"}
        if _is_isotropic(config)
        else {
            "out_indices": (0, 1, 2, 3),
            "flatten_sequential": True,
        }
    )
    return build_model_with_cfg(construct, name, False, cfg, feature_cfg=features, **options)


def configure(config: BackboneConfig, options: dict[str, Any], name: str) -> BackboneConfig:
    """`config` with a user's options.

    Raises:
        OptionError: an option that the family does not have; names the closest and all.
    """
    known = [field.name for field in fields(config)]
    for option in options:
        if option not in known:
            raise OptionError(
                f"{name.removeprefix(PREFIX)} has no option {option!r}.{closest(option, known)} "
                f"It takes {', '.join([*known, 'device', 'dtype'])}."
            )
    return replace(config, **options)


def _default_cfgs(name: str, variant: str, config: BackboneConfig) -> dict[str, Any]:
    """timm's record of every checkpoint of a variant, the first being the default."""
    records = WEIGHTS.get(variant, ())
    reduction = 16 if _is_isotropic(config) else 32
    cfgs: dict[str, Any] = {f"{name}.{w.tag}": timm_cfg(w, reduction) for w in records}
    return dict(generate_default_cfgs(cfgs))


def _is_isotropic(config: BackboneConfig) -> bool:
    return len(getattr(config, "depths", (1, 1))) == 1
