"""`foveal eval`: a model's figures on a folder of images."""

from argparse import Namespace
from dataclasses import asdict

from jsonargparse import ArgumentParser

from foveal.cli.console import note, show_table, skipped_note, write_json
from foveal.cli.model_choice import add_model_arguments, chosen_model
from foveal.tools.evaluate import Evaluation, evaluate_folder

SUMMARY = "judge a model by a folder of images"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    add_model_arguments(parser)
    add = parser.add_argument
    add("--data", required=True, metavar="FOLDER", help="CLASS/image or {train,val}/CLASS/image")
    add(
        "--split",
        choices=["auto", "train", "val", "all"],
        default="auto",
        help="which images; auto: val, or what training on this folder held out, or else all",
    )
    add("--batch-size", type=int, default=32, help="images at a time (default: 32)")
    add("--workers", type=int, default=2, help="processes that load images (default: 2)")
    add(
        "--on-bad-image",
        choices=["refuse", "skip"],
        default="refuse",
        help="what to do about images that cannot be read (default: refuse)",
    )
    add("--json", metavar="FILE", help="write the figures to FILE, or - for standard output")


def run(options: Namespace) -> None:
    """Evaluate and show the figures."""
    evaluation = evaluate_folder(
        chosen_model(options),
        options.data,
        split=options.split,
        on_bad_image=options.on_bad_image,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    skipped_note(evaluation.skipped)
    if options.json != "-":
        _show(evaluation)
    if options.json is not None:
        write_json(options.json, _plain(evaluation))


def _show(evaluation: Evaluation) -> None:
    result = evaluation.result
    note(f"{result.num_images} images: {evaluation.images}.")
    rows = [
        (r.name, str(r.num_images), str(r.num_correct), f"{r.accuracy:.2f}")
        for r in result.per_class()
        if r.accuracy is not None
    ]
    show_table(("class", "images", "correct", "top-1 %"), rows)
    print(f"top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, loss {result.loss:.4f}")


def _plain(evaluation: Evaluation) -> dict[str, object]:
    result = evaluation.result
    return {
        **asdict(result),
        "per_class": [{**asdict(r), "accuracy": r.accuracy} for r in result.per_class()],
        "images": evaluation.images,
        "skipped": [str(bad.path) for bad in evaluation.skipped],
    }
