"""`foveal eval`: a model's figures on a folder of images."""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from jsonargparse import ArgumentParser

from foveal.cli.console import note, skipped_note
from foveal.cli.image_choice import add_image_arguments, chosen_images, chosen_settings
from foveal.cli.model_choice import add_model_arguments, chosen_model
from foveal.cli.progress import progress_bar
from foveal.cli.sweep import run_sweep
from foveal.cli.tables import Table, add_export_arguments, export, export_to_stdout, show
from foveal.tools.evaluate import Evaluation, evaluate_images
from foveal.tools.labels import DATASETS

SUMMARY = "judge a model by a folder of images"

# Rows on the console of tables that have one row a class or a pair of classes.
_MOST_CLASSES = 100
_MOST_PAIRS = 10


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    add_model_arguments(parser)
    add_image_arguments(parser)
    add = parser.add_argument
    add(
        "--dataset",
        choices=list(DATASETS),
        default="folder",
        help="what FOLDER holds: folders named after the classes, or a variant of ImageNet",
    )
    add(
        "--flip",
        action="store_true",
        help="judge by the mean of an image's and its mirror's logits",
    )
    add("--sizes", metavar="PIXELS,…", help="judge at each of these sizes, such as 128,224,384")
    add_export_arguments(parser)


def run(options: Namespace) -> None:
    """Evaluate and show the figures."""
    quiet = export_to_stdout(options)
    if options.sizes is not None:
        run_sweep(options, quiet=quiet)
        return
    trained = chosen_model(options)
    with progress_bar("images") as advance:
        images = chosen_images(trained, options)
        evaluation = evaluate_images(trained, images, chosen_settings(options, advance))
    skipped_note(evaluation.skipped)
    figures, classes, confusions = evaluation_tables(evaluation)
    if not quiet:
        note(f"{evaluation.result.num_images} images: {evaluation.images}.")
        show([classes, confusions] if confusions.rows else [classes])
        print()
        _show_figures(evaluation)
    export(options, [figures, classes, confusions], plain_evaluation(evaluation))


def evaluation_tables(evaluation: Evaluation) -> tuple[Table, Table, Table]:
    """All figures, those of every class, and what was taken for what."""
    result = evaluation.result
    per_class = [row for row in result.per_class() if row.num_images]
    return (
        Table("Figures", ("figure", "value"), tuple(_figures(evaluation).items()), decimals=4),
        Table(
            "Classes",
            ("class", "images", "correct", "top-1 %"),
            tuple((r.name, r.num_images, r.num_correct, r.accuracy) for r in per_class),
            most=_MOST_CLASSES,
        ),
        Table(
            "Confusions",
            ("true class", "taken for", "times", "% of the class"),
            tuple((c.true, c.predicted, c.count, c.share) for c in result.confusions()),
            text_columns=2,
            most=_MOST_PAIRS,
        ),
    )


def _figures(evaluation: Evaluation) -> dict[str, str | int | float | None]:
    result, cost = evaluation.result, evaluation.cost
    return {
        "images": result.num_images,
        "image size": evaluation.image_size,
        "top-1 %": result.top1,
        "top-5 %": result.top5,
        "ECE %": result.ece,
        "loss": result.loss,
        "images/s": cost.images_per_second,
        "batch size": cost.batch_size,
        "device": cost.device,
        "peak memory MB": cost.peak_memory_mb,
        "memory of": cost.memory_of,
    }


def _show_figures(evaluation: Evaluation) -> None:
    result, cost = evaluation.result, evaluation.cost
    print(
        f"top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, ECE {result.ece:.2f} %, "
        f"loss {result.loss:.4f}"
    )
    memory = "" if cost.peak_memory_mb is None else f", peak memory {cost.peak_memory_mb:.0f} MB"
    print(
        f"{cost.images_per_second:.1f} images/s in batches of {cost.batch_size} at "
        f"{evaluation.image_size} pixels on {cost.device}{memory} ({cost.memory_of})"
    )


def plain_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as plain values: `per_class` and `confusions` hold the whole confusion."""
    result = evaluation.result
    figures = {key: value for key, value in asdict(result).items() if key != "counts"}
    return {
        **figures,
        "image_size": evaluation.image_size,
        **asdict(evaluation.cost),
        "per_class": [{**asdict(r), "accuracy": r.accuracy} for r in result.per_class()],
        "confusions": [asdict(pair) for pair in result.confusions()],
        "images": evaluation.images,
        "skipped": [str(bad.path) for bad in evaluation.skipped],
    }
