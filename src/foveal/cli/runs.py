"""What `foveal train` has in common for all tasks."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import note
from foveal.recipes.run import TrainingRun
from foveal.train.loop import TrainResult


def add_run_arguments(parser: ArgumentParser) -> None:
    """The flags of a run of any task, beside its settings."""
    add = parser.add_argument
    add("--output", metavar="DIR", help="folder for checkpoints and figures")
    add("--resume", action="store_true", help="go on from what DIR holds, afresh if nothing")
    add("--overwrite", action="store_true", help="replace an earlier run in DIR")
    add("--config", metavar="FILE", help="YAML file of settings, which flags override")
    add("--print-config", action="store_true", help="print all settings as YAML, and do nothing")


def require_run(options: Namespace, config: Any) -> None:
    """Raise a UsageError if a run has nowhere to write, or two starts."""
    if options.output is None:
        raise UsageError("foveal train needs --output; see foveal train --help.")
    if config.pretrained and config.checkpoint is not None:
        raise UsageError("--checkpoint and --pretrained exclude each other; give one of them.")


def fit(run_: TrainingRun[Any]) -> TrainResult:
    """Train; an interruption says what is saved."""
    try:
        return run_.fit()
    except KeyboardInterrupt as stop:
        state = run_.folder.latest_state()
        if state is None:
            raise KeyboardInterrupt("Stopped; nothing was saved yet.") from stop
        raise KeyboardInterrupt(
            f"Stopped; {state} holds the newest state. Go on with --resume."
        ) from stop


def tell_end(run_: TrainingRun[Any], result: TrainResult, best: str, then: str) -> None:
    """Say what came of a run.

    Args:
        run_: that has ended.
        result: how it ended.
        best: the best score in words.
        then: a command that uses the result.
    """
    if not run_.is_main:
        return
    if not result.finished:
        note(f"Asked to stop after step {result.steps}; the state is saved. Go on with --resume.")
        return
    note(f"Finished {result.steps} steps in {result.seconds:.0f} s, {best}. Try: {then}")


def given_flags(argv: Sequence[str]) -> dict[str, Any]:
    """The values of the flags that decide about the others' defaults."""
    names = ("recipe", "model", "head", "config", "pretrained", "checkpoint", "image_size")
    found: dict[str, Any] = {}
    for position, token in enumerate(argv):
        flag, equals, value = token.partition("=")
        name = flag.removeprefix("--")
        if flag.startswith("--") and name in names:
            following = argv[position + 1] if position + 1 < len(argv) else None
            found[name] = value if equals else following
    return {name: value for name, value in found.items() if value is not None}
