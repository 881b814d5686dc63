"""Arguments before and after jsonargparse: spelling, and errors as sentences."""

import re
from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from foveal.errors import OptionError, closest

Commands = Mapping[str, ArgumentParser]


class UsageError(OptionError):
    """Arguments that cannot be understood."""


def normalise(argv: Sequence[str], commands: Commands) -> list[str]:
    """`--max_steps` as `--max-steps`; unknown commands and flags are refused with the nearest.

    Raises:
        UsageError: a command or flag that does not exist.
    """
    argv = list(argv)
    if not argv or argv[0].startswith("-"):
        return argv
    name, rest = argv[0], argv[1:]
    if name not in commands:
        raise UsageError(
            f"foveal has no command {name!r}.{closest(name, commands)} "
            f"It has {', '.join(commands)}."
        )
    flags = list(flags_of(commands[name]))
    end = rest.index("--") if "--" in rest else len(rest)
    return [name, *(_flag(token, name, flags) for token in rest[:end]), *rest[end:]]


def flags_of(parser: ArgumentParser) -> Iterable[str]:
    """The long flags that a parser knows."""
    return (flag for action in parser._actions for flag in action.option_strings if "--" in flag)


def _flag(token: str, command: str, flags: list[str]) -> str:
    if not token.startswith("--"):
        return token
    given, equals, value = token.partition("=")
    flag = given.replace("_", "-")
    if flag not in flags:
        raise UsageError(
            f"foveal {command} has no option {given}.{closest(flag, flags)} "
            f"See foveal {command} --help."
        )
    return flag + equals + value


def usage_error(error: ArgumentError, command: str) -> UsageError:
    """jsonargparse's complaint as one sentence."""
    text = " ".join(str(error).split())
    if wrong := re.search(
        r'Parser key "(\w+)": Expected a <class \'(\w+)\'>. Got value: (.*)', text
    ):
        kind = {"int": "a whole number", "float": "a number"}.get(wrong[2], wrong[2])
        flag = wrong[1].split(".")[-1].replace("_", "-")
        return UsageError(f"--{flag} takes {kind}, got {wrong[3]!r}.")
    if missing := re.search(r"arguments are required: (.*)", text):
        names = [name.strip().split(".")[-1] for name in missing[1].split(",")]
        wanted = ", ".join("IMAGE" if n == "images" else _as_flag(n) for n in names)
        return UsageError(f"foveal {command} needs {wanted}; see foveal {command} --help.")
    text = re.sub(
        r"^argument (--[\w-]+): invalid choice: (.*) \(choose from (.*)\)$",
        r"\1 is one of \3, got \2",
        text,
    )
    return UsageError(f"{text.rstrip('.')}; see foveal {command} --help.")


def _as_flag(name: str) -> str:
    positional = {"official": "OFFICIAL", "checkpoints": "CHECKPOINT"}
    return positional.get(name, "--" + name.replace("_", "-"))


def model_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`key=value` pairs, the values read as YAML: numbers, lists, true and false.

    Raises:
        UsageError: a pair without "=" or with an unreadable value.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"--option takes KEY=VALUE, got {pair!r}.")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(
                f"The value of --option {pair!r} is not a number, list or word."
            ) from error
    return options
