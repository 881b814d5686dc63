"""State dicts between the official layouts and ours: renaming, strictly, both ways."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from foveal.errors import CheckpointError
from foveal.models.backbone import BackboneConfig
from foveal.models.family import Family, Rename


def rename_keys(
    state_dict: Mapping[str, Tensor], rules: Iterable[Rename], to_official: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """The renamed dict, and the keys that no rule knows."""
    rules = list(rules)
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, value in state_dict.items():
        found = (r.to_official(key) if to_official else r.to_ours(key) for r in rules)
        new = next((k for k in found if k is not None), None)
        if new is None or new in renamed:
            unknown.append(key)
        else:
            renamed[new] = value
    return renamed, unknown


def expected_keys(family: Family, config: BackboneConfig) -> set[str]:
    """Our keys of the network that `config` describes; nothing is allocated."""
    return set(family.backbone(config, device="meta").state_dict())


def from_official(
    family: Family, config: BackboneConfig, state_dict: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Official keys to ours. Options that add or remove keys are read off the dict itself.

    Raises:
        CheckpointError: keys that the family does not have, or keys that are missing. A dict
            without classifier is whole.
    """
    weights = {k: v for k, v in state_dict.items() if not family.is_computed(k)}
    renamed, unknown = rename_keys(weights, family.renames(config))
    _require_all(family, config, weights, renamed, unknown)
    return renamed


def to_official(
    family: Family, config: BackboneConfig, state_dict: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Our keys to the official ones, with the buffers that the official networks compute."""
    renamed, unknown = rename_keys(state_dict, family.renames(config), to_official=True)
    _require_all(family, config, renamed, state_dict, unknown)
    actual = replace(config, **family.infer_options(renamed))
    return {**renamed, **family.computed_buffers(actual)}


def _require_all(
    family: Family,
    config: BackboneConfig,
    official: Mapping[str, Tensor],
    ours: Mapping[str, Tensor],
    unknown: list[str],
) -> None:
    """Raise unless `ours` is exactly the network that the official dict seems to be."""
    try:
        expected = expected_keys(family, replace(config, **family.infer_options(official)))
    except (ValueError, IndexError, KeyError):
        expected = expected_keys(family, config)
    present = set(ours) - set(unknown)
    headless = not any(key.startswith("head.") for key in present)
    missing = {k for k in expected - present if not (headless and k.startswith("head."))}
    extra = sorted({*unknown, *(present - expected)})
    if missing or extra:
        parts = [_listing("missing", sorted(missing)), _listing("not of this network", extra)]
        raise CheckpointError(
            f"This is not a {family.backbone.__name__} state dict of the given variant: "
            + "; ".join(part for part in parts if part)
            + "."
        )


def _listing(title: str, keys: list[str], limit: int = 4) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return f"{len(keys)} keys {title} ({', '.join(keys[:limit])}{more})"


def squeeze_pointwise(value: Tensor, shape: torch.Size) -> Tensor:
    """A 1×1 convolution's kernel as the linear layer's, or back; anything else unchanged."""
    if value.ndim == 4 and len(shape) == 2 and value.shape[2:] == (1, 1):
        return value[:, :, 0, 0]
    if value.ndim == 2 and len(shape) == 4 and shape[2:] == (1, 1):
        return value[:, :, None, None]
    return value
