"""`foveal demo`: a page to try models on, on this machine alone."""

from argparse import Namespace

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import note
from foveal.cli.model_choice import add_models_arguments, chosen_models
from foveal.tools.demo import serve_demo
from foveal.tools.explain.class_activation import METHODS
from foveal.tools.explain.run import ExplainSettings

SUMMARY = "try models in a browser: upload a picture, see its classes and where they look"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    add = parser.add_argument
    add("--checkpoint", metavar="DIR_OR_FILE", help="output folder of a training run, or a file")
    add_models_arguments(parser)
    add("--top", type=int, default=5, help="classes a model (default: 5)")
    add(
        "--method",
        choices=[*METHODS, "none"],
        default="gradcam",
        help="of the class activation map (default: gradcam)",
    )
    add("--port", type=int, default=0, help="of 127.0.0.1 (default: any that is free)")


def run(options: Namespace) -> None:
    """Serve until interrupted."""
    if options.top < 1:
        raise UsageError(f"--top is 1 or more, got {options.top}.")
    if not 0 <= options.port < 2**16:
        raise UsageError(f"--port is 0 to 65535, got {options.port}.")
    if options.checkpoint is not None:
        if options.models is not None:
            raise UsageError("--checkpoint and --models exclude each other; give one of them.")
        options.models = options.checkpoint
    method = None if options.method == "none" else options.method
    serve_demo(
        chosen_models(options),
        ExplainSettings(top=options.top, method=method),
        port=options.port,
        started=lambda address: note(f"{address} shows the demo; Ctrl-C ends it."),
    )
