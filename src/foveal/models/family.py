"""What the library knows of a family beside its code: its variants, and its official layout."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import Tensor

from foveal.errors import FovealError, closest
from foveal.models.backbone import Backbone, BackboneConfig

_FIELD = re.compile(r"\\\{(\w+)(?:\\\+(\d+))?\\\}")


@dataclass(frozen=True)
class Rename:
    """Two prefixes of one meaning, with integer fields: `layers.{s}.` ↔ `stages.{s+1}.`

    What follows the prefix stays as it is.
    """

    official: str
    ours: str

    def to_ours(self, key: str) -> str | None:
        return _rewrite(key, self.official, self.ours)

    def to_official(self, key: str) -> str | None:
        return _rewrite(key, self.ours, self.official)


Renames = Callable[[Any], list[Rename]]
Options = Callable[[Mapping[str, Tensor]], dict[str, Any]]
Buffers = Callable[[Any], dict[str, Tensor]]


@dataclass(frozen=True)
class Family:
    """What the library knows of one family beside its code.

    Attributes:
        backbone: the Backbone; called with a config, a device and a dtype.
        variants: config of every published network, by name.
        renames: the official layout's prefixes, first match first, for a config.
        infer_options: options that change the set of keys, read off an official state dict.
        computed_buffers: official keys that hold no weights, with the values for a config.
        is_computed: whether an official key is such a buffer.
    """

    backbone: type[Any]
    variants: Mapping[str, BackboneConfig]
    renames: Renames
    infer_options: Options = lambda _: {}
    computed_buffers: Buffers = lambda _: {}
    is_computed: Callable[[str], bool] = lambda _: False


@lru_cache(maxsize=4096)
def _expression(template: str) -> re.Pattern[str]:
    return re.compile(_FIELD.sub(lambda m: f"(?P<{m[1]}>\\d+)", re.escape(template)))


@lru_cache(maxsize=4096)
def _offsets(template: str) -> dict[str, int]:
    return {m[1]: int(m[2] or 0) for m in _FIELD.finditer(re.escape(template))}


def _rewrite(key: str, source: str, target: str) -> str | None:
    match = _expression(source).match(key)
    if match is None:
        return None
    values = {name: int(text) - _offsets(source)[name] for name, text in match.groupdict().items()}
    if min(values.values(), default=0) < 0:
        return None
    out = target
    for name, offset in _offsets(target).items():
        field = f"{{{name}+{offset}}}" if offset else f"{{{name}}}"
        out = out.replace(field, str(values[name] + offset))
    return out + key[match.end() :]


FAMILIES: list[Family] = []


def find_variant(name: str) -> tuple[Family, BackboneConfig]:
    """The family and the published config behind a variant's name.

    Raises:
        FovealError: no such variant; names the closest.
    """
    for family in FAMILIES:
        if name in family.variants:
            return family, family.variants[name]
    known = [variant for family in FAMILIES for variant in family.variants]
    raise FovealError(
        f"Unknown model {name!r}.{closest(name, known)} `foveal models` lists them all."
    )


def family_of(model: Backbone) -> Family:
    """The family that a model belongs to."""
    for family in FAMILIES:
        if type(model) is family.backbone:
            return family
    raise FovealError(f"{type(model).__name__} is not one of Foveal's networks.")
