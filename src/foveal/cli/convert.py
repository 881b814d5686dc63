"""`foveal convert`: the authors' weights as a file of ours."""

from argparse import Namespace

from jsonargparse import ArgumentParser

from foveal.cli.arguments import model_options
from foveal.cli.console import note
from foveal.cli.model_choice import add_option_argument
from foveal.tools.convert import convert_checkpoint

SUMMARY = "turn an official checkpoint into a .safetensors file"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "official", metavar="OFFICIAL", help="the authors' file; runs no code of it"
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="network it holds")
    parser.add_argument("--output", required=True, metavar="FILE.safetensors", help="to write")
    add_option_argument(parser)


def run(options: Namespace) -> None:
    """Convert, and say what came of it."""
    done = convert_checkpoint(
        options.official, options.model, options.output, options=model_options(options.option)
    )
    head = f"{done.num_classes} classes" if done.num_classes else "no classifier"
    note(
        f"Wrote {done.num_tensors} tensors of {done.model} ({head}) to {done.output}. "
        f"Use them with --checkpoint {done.output}"
    )
