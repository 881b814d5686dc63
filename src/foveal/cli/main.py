"""`foveal COMMAND …`: exit code 0, 2 for input that cannot be used, 130 when interrupted."""

import os
import sys
from argparse import ArgumentError
from collections.abc import Sequence

from jsonargparse import ArgumentParser

import foveal
from foveal.cli import (
    average,
    bench,
    convert,
    demo,
    evaluate,
    explain,
    export,
    models,
    predict,
    quantize,
    quickstart,
    robustness,
    train,
)
from foveal.cli.arguments import HelpFormatter, normalise, usage_error
from foveal.cli.interruption import interruptible
from foveal.errors import FovealError

COMMANDS = {
    "train": train,
    "eval": evaluate,
    "robustness": robustness,
    "predict": predict,
    "explain": explain,
    "demo": demo,
    "bench": bench,
    "models": models,
    "export": export,
    "quantize": quantize,
    "convert": convert,
    "average": average,
    "quickstart": quickstart,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        with interruptible():
            return _run(given)
    except SystemExit as stop:
        # --help and --version end this way.
        return int(stop.code or 0)
    except FovealError as error:
        sys.stderr.write(f"foveal: {sentence(error)}\n")
        return 2
    except KeyboardInterrupt as stop:
        # A command may have said what is kept.
        sys.stderr.write(f"{str(stop) or 'Stopped.'}\n")
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone; nothing more can be written to it, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(argv: list[str]) -> int:
    parser, commands = create_parser()
    if not argv:
        parser.print_help()
        return 2
    aliases = {name: getattr(module, "ALIASES", {}) for name, module in COMMANDS.items()}
    argv = normalise(argv, commands, aliases)
    prepare = getattr(COMMANDS.get(argv[0]), "prepare", None)
    if prepare is not None:
        argv = [argv[0], *prepare(commands[argv[0]], argv[1:])]
    try:
        options = parser.parse_args(argv)
    except ArgumentError as error:
        raise usage_error(error, argv[0]) from error
    COMMANDS[options.subcommand].run(options[options.subcommand])
    return 0


def create_parser() -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
    """The parser of everything, and those of the commands by name."""
    parser = ArgumentParser(
        prog="foveal",
        description="Train, judge and use FocalNet, TransNeXt, CloFormer, DAT and EfficientMod.",
        version=foveal.__version__,
        exit_on_error=False,
        formatter_class=HelpFormatter,
    )
    subcommands = parser.add_subcommands(required=True, metavar="COMMAND")
    commands: dict[str, ArgumentParser] = {}
    for name, module in COMMANDS.items():
        command = ArgumentParser(
            description=module.SUMMARY.capitalize() + ".",
            exit_on_error=False,
            formatter_class=HelpFormatter,
        )
        module.add_arguments(command)
        subcommands.add_subcommand(name, command, help=module.SUMMARY)
        commands[name] = command
    return parser, commands


def sentence(error: FovealError) -> str:
    """An error's message on one line, also when a worker process wrapped it in its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Caught "):
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(line.strip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
