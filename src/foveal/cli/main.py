"""`foveal COMMAND …`: exit code 0, 2 for input that cannot be used, 130 when interrupted."""

import os
import sys
from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jsonargparse import ArgumentParser

import foveal
from foveal.cli import (
    average,
    bench,
    convert,
    dataset,
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
from foveal.cli.arguments import HelpFormatter, UsageError, normalise, usage_error
from foveal.cli.dense_evaluate import EVALUATE
from foveal.cli.dense_predict import PREDICT
from foveal.cli.dense_train import TRAIN
from foveal.cli.interruption import interruptible
from foveal.errors import FovealError, closest, first_line
from foveal.recipes.dense_catalogue import DENSE_TASKS

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
    "dataset": dataset,
    "average": average,
    "quickstart": quickstart,
}

CLASSIFICATION = "classification"
TASK_HELP = f"{CLASSIFICATION}, {' or '.join(DENSE_TASKS)}; every task has flags of its own"

# What --task makes of a command.
OTHER_TASKS: dict[str, dict[str, Any]] = {
    task: {
        "train": TRAIN[task],
        "eval": EVALUATE[task],
        "predict": PREDICT[task],
    }
    for task in DENSE_TASKS
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
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sys.stderr.write(
            f"foveal: The memory does not suffice ({first_line(error)}); take fewer images at a "
            "time (--batch-size), smaller ones, or a smaller network.\n"
        )
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
    modules: dict[str, Any] = {**COMMANDS, **OTHER_TASKS.get(task_of(argv), {})}
    parser, commands = create_parser(modules)
    if not argv:
        parser.print_help()
        return 2
    aliases = {name: getattr(module, "ALIASES", {}) for name, module in modules.items()}
    argv = normalise(argv, commands, aliases)
    prepare = getattr(modules.get(argv[0]), "prepare", None)
    if prepare is not None:
        argv = [argv[0], *prepare(commands[argv[0]], argv[1:])]
    try:
        options = parser.parse_args(argv)
    except ArgumentError as error:
        raise usage_error(error, argv[0], commands[argv[0]]) from error
    modules[options.subcommand].run(options[options.subcommand])
    return 0


def task_of(argv: Sequence[str]) -> str:
    """What --task says, which decides about all other flags.

    Raises:
        UsageError: there is no such task.
    """
    known = (CLASSIFICATION, *OTHER_TASKS)
    for token, following in zip(argv, [*argv, ""][1:], strict=True):
        flag, equals, value = token.partition("=")
        if flag == "--":
            break
        if flag == "--task":
            task = value if equals else following
            if task not in known:
                raise UsageError(
                    f"There is no task {task!r}.{closest(task, known)} "
                    f"--task is one of {', '.join(known)}."
                )
            return task
    return CLASSIFICATION


def create_parser(modules: Mapping[str, Any]) -> tuple[ArgumentParser, dict[str, ArgumentParser]]:
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
    for name, module in modules.items():
        command = ArgumentParser(
            description=f"{module.SUMMARY[0].upper()}{module.SUMMARY[1:]}.",
            exit_on_error=False,
            formatter_class=HelpFormatter,
        )
        if any(name in of_task for of_task in OTHER_TASKS.values()):
            command.add_argument("--task", metavar="NAME", default=CLASSIFICATION, help=TASK_HELP)
        module.add_arguments(command)
        subcommands.add_subcommand(name, command, help=module.SUMMARY)
        commands[name] = command
    return parser, commands


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device, or the machine, has no more memory to give."""
    # On the CPU, PyTorch says so in words alone.
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "not enough memory" in str(error) or "can't allocate memory" in str(error)


def sentence(error: FovealError) -> str:
    """An error's message on one line, also when a worker process wrapped it in its traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if lines[0].startswith("Caught "):
        return lines[-1].partition(": ")[2] or lines[-1]
    return " ".join(line.strip() for line in lines)


if __name__ == "__main__":
    sys.exit(main())
