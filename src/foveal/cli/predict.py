"""`foveal predict`: what a model takes images for."""

from argparse import Namespace
from dataclasses import asdict

from jsonargparse import ArgumentParser

from foveal.cli.console import write_json
from foveal.cli.model_choice import add_model_arguments, chosen_model
from foveal.tools.predict import predict_images

SUMMARY = "name what is in images"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    add_model_arguments(parser)
    parser.add_argument("--top", type=int, default=5, help="classes an image (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="write to FILE, or - for standard output")


def run(options: Namespace) -> None:
    """Predict and show."""
    predictions = predict_images(chosen_model(options), options.images, top=max(1, options.top))
    if options.json is not None:
        write_json(options.json, [asdict(prediction) for prediction in predictions])
    if options.json == "-":
        return
    for prediction in predictions:
        print(prediction.image)
        for score in prediction.scores:
            print(f"  {100 * score.probability:5.1f} %  {score.name}")
