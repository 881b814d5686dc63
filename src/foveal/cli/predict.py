"""`foveal predict`: what a model takes images for."""

from argparse import Namespace
from dataclasses import asdict

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import note, write_json
from foveal.cli.model_choice import add_model_arguments, chosen_model
from foveal.cli.progress import progress_bar
from foveal.files import require_writable
from foveal.tools.bulk import BulkJob, predict_bulk
from foveal.tools.predict import predict_images

SUMMARY = "name what is in images"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="image files")
    add_model_arguments(parser)
    parser.add_argument(
        "--data", metavar="PATH", help="all images of a folder, .parquet or .tar files, instead"
    )
    parser.add_argument("--output", metavar="FILE.parquet", help="where --data's results go")
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="--data on this machine, or on a Ray cluster (default: local)",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="of --data (default: 64)")
    parser.add_argument(
        "--part-size",
        type=int,
        default=1024,
        help="images of --data that an interruption may lose (default: 1024)",
    )
    parser.add_argument("--top", type=int, default=5, help="classes an image (default: 5)")
    parser.add_argument("--json", metavar="FILE", help="write to FILE, or - for standard output")


def run(options: Namespace) -> None:
    """Predict, and show or write."""
    if options.top < 1:
        raise UsageError(f"--top is 1 or more, got {options.top}.")
    if options.data is not None:
        _bulk(options)
        return
    if options.output is not None:
        raise UsageError("--output goes with --data PATH; for IMAGE there is --json FILE.")
    if not options.images:
        raise UsageError("foveal predict needs IMAGE, or --data PATH; see foveal predict --help.")
    if options.json is not None and options.json != "-":
        require_writable(options.json)
    predictions = predict_images(chosen_model(options), options.images, top=options.top)
    if options.json is not None:
        write_json(options.json, [asdict(prediction) for prediction in predictions])
    if options.json == "-":
        return
    for prediction in predictions:
        print(prediction.image)
        for score in prediction.scores:
            print(f"  {100 * score.probability:5.1f} %  {score.name}")


def _bulk(options: Namespace) -> None:
    """All images of a path into a parquet file."""
    if options.images or not (options.data and options.output and options.checkpoint):
        raise UsageError(
            "foveal predict --data PATH needs --output FILE.parquet and --checkpoint, and takes no "
            "IMAGE beside it."
        )
    for name in ("model", "pretrained", "image_size", "option", "json"):
        if getattr(options, name):
            raise UsageError(
                f"foveal predict --data takes model and image size from --checkpoint and writes "
                f"--output; leave --{name.replace('_', '-')} out."
            )
    for name in ("batch_size", "part_size"):
        value = getattr(options, name)
        if value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is 1 or more, got {value}.")
    job = BulkJob(
        checkpoint=options.checkpoint,
        data=options.data,
        output=options.output,
        top=options.top,
        batch_size=options.batch_size,
        part_size=options.part_size,
        device=options.device,
    )
    with progress_bar("images") as done:
        total = predict_bulk(job, done, engine=options.engine)
    note(f"{total} images in {options.output}.")
