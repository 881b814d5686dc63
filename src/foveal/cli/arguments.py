"""Arguments before and after jsonargparse: spelling, and errors as sentences."""

import re
from argparse import Action, ArgumentError
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, get_origin

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from foveal.errors import OptionError, closest


class HelpFormatter(DefaultHelpFormatter):
    """Adds a default to the help only where it says something that the help does not."""

    def _get_help_string(self, action: Action) -> str:
        told = action.help or ""
        if action.default in (None, False, "==SUPPRESS==") or action.default == []:
            return told
        return told if "default" in told else super()._get_help_string(action)


Commands = Mapping[str, ArgumentParser]


class UsageError(OptionError):
    """Arguments that cannot be understood."""


def normalise(
    argv: Sequence[str], commands: Commands, aliases: Mapping[str, Mapping[str, str]]
) -> list[str]:
    """Flags as the parsers know them; unknown commands and flags are refused with the nearest.

    `--max-steps`, `--max_steps` and `--train.max-steps` are the same, a flag for yes or no needs no
    value, and `--option key=value` sets a key of a mapping.

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
    spellings = _spellings(commands[name], aliases.get(name, {}))
    end = rest.index("--") if "--" in rest else len(rest)
    done, position = [name], 0
    while position < end:
        following = rest[position + 1] if position + 1 < end else None
        tokens, used = _flag(rest[position], following, name, spellings)
        done += tokens
        position += used
    return [*done, *rest[end:]]


class _Known(NamedTuple):
    """A flag as its parser has it, and what follows it."""

    flag: str
    is_switch: bool
    is_mapping: bool


def _spellings(parser: ArgumentParser, aliases: Mapping[str, str]) -> dict[str, _Known]:
    """Every way to write a flag: dashes or underscores, and its last word where that is its own."""
    known: dict[str, _Known] = {}
    last: dict[str, list[_Known]] = {}
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        for flag in action.option_strings:
            if flag.startswith("--"):
                entry = _Known(flag, hint is bool, get_origin(hint) is dict)
                known[_plain(flag)] = entry
                last.setdefault("--" + _plain(flag).split(".")[-1].lstrip("-"), []).append(entry)
    words = {word: entries[0] for word, entries in last.items() if len(entries) == 1}
    short = {_plain(alias): known[_plain(flag)] for alias, flag in aliases.items()}
    return {**words, **known, **short}


def _plain(flag: str) -> str:
    return "--" + flag[2:].replace("-", "_")


def _flag(
    token: str, following: str | None, command: str, spellings: Mapping[str, _Known]
) -> tuple[list[str], int]:
    """A token as its parser wants it, and how many tokens of the command line that took."""
    if not token.startswith("--"):
        return [token], 1
    given, equals, value = token.partition("=")
    root, dot, key = _plain(given).partition(".")
    if _plain(given) not in spellings and dot and spellings.get(root, _NO_MAPPING).is_mapping:
        return [f"{spellings[root].flag}.{key}{equals}{value}"], 1
    known = spellings.get(_plain(given))
    if known is None:
        near = closest(_plain(given), spellings).replace("_", "-")
        raise UsageError(
            f"foveal {command} has no option {given}.{near} See foveal {command} --help."
        )
    if known.is_mapping and "=" in (value or following or ""):
        pair, used = (value, 1) if equals else (following or "", 2)
        return [f"{known.flag}.{pair}"], used
    if known.is_switch and not equals and (following or "").lower() not in ("true", "false"):
        return [f"{known.flag}=true"], 1
    return [known.flag + equals + value], 1


_NO_MAPPING = _Known("", False, False)


def usage_error(error: ArgumentError, command: str, parser: ArgumentParser) -> UsageError:
    """The complaint of a command's parser as one sentence."""
    text = " ".join(str(error).split())
    if wrong := re.search(
        r'Parser key "([\w.]+)": (?:.*?)Expected an? (.*?)\. Got value: (.*)', text
    ):
        flag = wrong[1].split(".")[-1].replace("_", "-")
        value = wrong[3].removesuffix(".").strip("'")
        return UsageError(f"--{flag} takes {_in_words(wrong[2])}, got {value!r}.")
    if wrong := re.search(
        r'Parser key "([\w.]+)": Does not .*Subtypes: (.*?\]).*Given value: (.*)', text
    ):
        flag, value = wrong[1].split(".")[-1].replace("_", "-"), wrong[3].removesuffix(".")
        return UsageError(f"--{flag} takes {_in_words(wrong[2])}, got {value.strip(chr(39))!r}.")
    if missing := re.search(r"arguments are required: (.*)", text):
        names = [name.strip().split(".")[-1] for name in missing[1].split(",")]
        places = {a.dest: str(a.metavar) for a in parser._actions if not a.option_strings}
        wanted = ", ".join(places.get(n, "--" + n.replace("_", "-")) for n in names)
        return UsageError(f"foveal {command} needs {wanted}; see foveal {command} --help.")
    text = re.sub(
        r"^argument (--[\w-]+): invalid choice: (.*) \(choose from (.*)\)$",
        r"\1 is one of \3, got \2",
        text,
    )
    return UsageError(f"{text.rstrip('.')}; see foveal {command} --help.")


def _in_words(type_: str) -> str:
    """A type as jsonargparse names it, for people."""
    if choices := re.search(r"Literal\[(.*?)\]", type_):
        return "one of " + choices[1].replace("'", "").replace('"', "")
    if "tuple" in type_.lower():
        return "numbers in brackets, such as [0.9,0.99]"
    if "dict" in type_.lower():
        return "KEY=VALUE"
    words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    kinds = (text for kind, text in words.items() if re.search(rf"\b{kind}\b", type_))
    return next(kinds, type_)


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
