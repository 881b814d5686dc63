"""`foveal average`: the mean of several checkpoints."""

from argparse import Namespace

from jsonargparse import ArgumentParser

from foveal.cli.console import note
from foveal.tools.average import average_checkpoints

SUMMARY = "write the mean of several checkpoints of one network"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="files that foveal wrote, or output folders of training runs (best, else last)",
    )
    parser.add_argument("--output", required=True, metavar="FILE.safetensors", help="to write")


def run(options: Namespace) -> None:
    """Average, and say what came of it."""
    done = average_checkpoints(options.checkpoints, options.output)
    note(
        f"Wrote the mean of {len(done.files)} checkpoints of {done.model} to {done.output}. "
        f"Judge it with: foveal eval --data FOLDER --checkpoint {done.output}"
    )
