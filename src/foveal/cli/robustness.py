"""`foveal robustness`: a model's errors under ImageNet-C's corruptions."""

import json
from argparse import Namespace
from pathlib import Path

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import note, skipped_note, write_json
from foveal.cli.image_choice import add_image_arguments, chosen_images, chosen_settings
from foveal.cli.model_choice import add_model_arguments, chosen_model
from foveal.cli.progress import progress_bar
from foveal.cli.tables import Cell, Table, add_export_arguments, export, export_to_stdout, show
from foveal.errors import FovealError
from foveal.tools.corruptions import SEVERITIES, corruption_names, require_corruptions
from foveal.tools.evaluate import EvaluationImages
from foveal.tools.robustness import (
    Robustness,
    evaluate_robustness,
    plain_robustness,
    robustness_from_plain,
)
from foveal.tools.trained import TrainedModel

SUMMARY = "judge a model by corrupted copies of images, as ImageNet-C does"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    add_model_arguments(parser)
    add_image_arguments(parser)
    add = parser.add_argument
    add(
        "--corruptions",
        default="all",
        metavar="NAMES",
        help="all, standard (the 15 of mCE), extra (the 4 others) or names with commas between",
    )
    add("--severities", default="1,2,3,4,5", metavar="NUMBERS", help="default: 1,2,3,4,5")
    add("--overwrite", action="store_true", help="do again what the --json file holds already")
    add_export_arguments(parser)


def run(options: Namespace) -> None:
    """Judge cell by cell, keeping what is done, and show the table."""
    require_corruptions()
    quiet = export_to_stdout(options)
    corruptions, severities = corruption_names(options.corruptions), _severities(options.severities)
    before = None if options.overwrite else _finished(options.json)
    trained = chosen_model(options)
    with progress_bar("images"):
        images = chosen_images(trained, options)
    skipped_note(images.skipped)
    note(f"{len(images.samples)} images: {images.words}.")
    known, stopped = _judge(options, trained, images, (corruptions, severities, before))
    tables = robustness_tables(known)
    if not quiet:
        show([table for table in tables if table.rows])
        if known.clean_error is not None:
            print(f"error on the images as they are: {known.clean_error:.2f} %")
        print(known.verdict())
    export(options, tables, plain_robustness(known))
    if stopped:
        rest = (
            f"{options.json} keeps them: the same command goes on."
            if _is_file(options.json)
            else "with --json FILE they would be kept."
        )
        raise KeyboardInterrupt(f"Stopped after {len(known.cells)} cells; {rest}")


def _judge(
    options: Namespace,
    trained: TrainedModel,
    images: EvaluationImages,
    what: tuple[tuple[str, ...], tuple[int, ...], Robustness | None],
) -> tuple[Robustness, bool]:
    """What is known in the end, and whether a person stopped it; every cell goes to the file."""
    corruptions, severities, before = what
    known: Robustness | None = None
    with progress_bar("images") as advance:
        settings = chosen_settings(options, advance)
        growing = evaluate_robustness(
            trained, images, corruptions, severities, settings=settings, before=before
        )
        try:
            for known in growing:
                if _is_file(options.json):
                    write_json(options.json, plain_robustness(known))
        except KeyboardInterrupt:
            if known is None:
                raise
            return known, True
    assert known is not None
    return known, False


def robustness_tables(robustness: Robustness) -> list[Table]:
    """The standard corruptions, and the others apart; errors in per cent by severity."""
    return [
        _table("Standard corruptions: error %", robustness, standard=True),
        _table("Other corruptions: error %", robustness, standard=False),
    ]


def _table(title: str, robustness: Robustness, *, standard: bool) -> Table:
    relative = standard and robustness.on_imagenet
    columns = ["corruption", *(f"severity {severity}" for severity in SEVERITIES), "mean"]
    rows: list[tuple[Cell, ...]] = []
    for result in robustness.results(standard=standard):
        row: list[Cell] = [result.name, *(result.errors.get(s) for s in SEVERITIES)]
        row.append(result.mean_error)
        rows.append((*row, result.corruption_error) if relative else tuple(row))
    return Table(
        title, (*columns, "relative to AlexNet") if relative else tuple(columns), tuple(rows)
    )


def _finished(target: str | None) -> Robustness | None:
    """What an earlier run left in the file, if there is one."""
    if target is None or not _is_file(target) or not Path(target).exists():
        return None
    try:
        content = json.loads(Path(target).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FovealError(
            f"{target} is no JSON that can be read; write to another file, or begin again with "
            "--overwrite."
        ) from error
    return robustness_from_plain(content)


def _is_file(target: str | None) -> bool:
    return target is not None and target != "-"


def _severities(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--severities takes numbers like 1,3,5, got {text!r}.") from error
