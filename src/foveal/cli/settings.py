"""A typed configuration as command-line flags and YAML keys, with a recipe's values as defaults."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.errors import closest


def add_settings(parser: ArgumentParser, kind: type) -> None:
    """A flag for every setting of a dataclass, those of nested ones with dots between."""
    for key, hint, default, text in settings_of(kind):
        parser.add_argument(f"--{key}", type=hint, default=default, help=text)


def settings_of(kind: type, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Dotted key, type, default and description of every setting."""
    hints, texts, defaults = get_type_hints(kind), _descriptions(kind), kind()
    for entry in fields(kind):
        key, hint = prefix + entry.name, hints[entry.name]
        if is_dataclass(hint):
            yield from settings_of(hint, f"{key}.")  # pyright: ignore[reportArgumentType]
        else:
            yield key, hint, getattr(defaults, entry.name), texts.get(entry.name, "")


def _descriptions(kind: type) -> dict[str, str]:
    """What the `Attributes:` of a docstring and of those of its bases say, by name."""
    texts: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        section = cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2]
        joined = re.sub(r"\n {6,}", " ", section)
        texts |= re.findall(r"^ {4}(\w+): (.*)$", joined, flags=re.MULTILINE)
    return texts


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"train.lr": 1}` as `{"train": {"lr": 1}}`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return tree


def flat(tree: Mapping[str, Any], leaves: Sequence[str], prefix: str = "") -> dict[str, Any]:
    """The inverse of `nested`, down to the settings called `leaves`."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in leaves:
            found |= flat(value, leaves, f"{key}.")
        else:
            found[key] = value
    return found


def read_file(path: str, leaves: Sequence[str]) -> dict[str, Any]:
    """The settings in a YAML file, by dotted key.

    Raises:
        UsageError: no such file, no YAML, or a setting that does not exist.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"Cannot read the configuration {path}: {error.strerror}; give a YAML file."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = " ".join(str(error).split())
        raise UsageError(f"The configuration {path} is not YAML: {place}.") from error
    if not isinstance(tree, Mapping):
        raise UsageError(f"The configuration {path} holds no settings; it maps names to values.")
    settings = flat(tree, leaves)
    for key in settings:
        if key not in leaves:
            raise UsageError(
                f"{path} has a setting {key!r} that does not exist.{closest(key, leaves)} "
                "See foveal train --print-config for all of them."
            )
    return settings
