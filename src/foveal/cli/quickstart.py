"""`foveal quickstart`: train on real scans of digits, report, and look at photographs."""

from argparse import Namespace
from pathlib import Path

from jsonargparse import ArgumentParser

from foveal.cli.console import note, show_table
from foveal.cli.runs import fit
from foveal.cli.train import describe
from foveal.data.photographs import load_photographs
from foveal.errors import MissingExtraError
from foveal.files import atomic_path
from foveal.recipes.classification import ClassificationRun
from foveal.recipes.quickstart import quickstart
from foveal.tools.box import load_boxed
from foveal.tools.predict import predict_sources
from foveal.tools.report.photographs import percent, photograph_grid, words_of
from foveal.tools.report.quickstart import Quickstart, write_quickstart_report
from foveal.tools.trained import load_trained

SUMMARY = "train on handwritten digits in two minutes, and write a report"

DEFAULT_OUTPUT = "foveal-quickstart"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    add = parser.add_argument
    add("--output", metavar="DIR", help=f"default: {DEFAULT_OUTPUT}, replaced at each run")
    add("--overwrite", action="store_true", help="replace an earlier run in DIR")
    add("--max-steps", type=int, help="stop early")
    add("--seed", type=int, default=0, help="of everything random (default: 0)")


def run(options: Namespace) -> None:
    """Train, report, print the report's path, and show photographs."""
    run_ = ClassificationRun(
        quickstart(max_steps=options.max_steps, seed=options.seed),
        options.output or DEFAULT_OUTPUT,
        overwrite=options.overwrite or options.output is None,
    )
    describe(run_)
    trained_for = fit(run_)
    report = run_.folder.root / "report.html"
    result = write_quickstart_report(
        Quickstart(
            load_trained(run_.folder.root),
            held_out=run_.data.val,
            num_trained=len(run_.data.train),
            seconds=trained_for.seconds,
        ),
        report,
    )
    note(
        f"{result.top1:.2f} % of {result.num_images} held-out scans recognised, "
        f"after {trained_for.seconds:.0f} s of training."
    )
    print(f"Report: {report}")
    show_photographs(run_.folder.root / "photographs.png")


def show_photographs(picture: Path) -> None:
    """What the model in the box takes photographs for, as a table and as a picture."""
    try:
        photographs = load_photographs()
    except MissingExtraError as error:
        note(f"Photographs for the model in the box come with scikit-image. {error}")
        return
    trained = load_boxed()
    images, names = [p.image for p in photographs], [p.name for p in photographs]
    predictions = predict_sources(trained, images, names, top=3)
    words = words_of(trained, photographs)
    note(words)
    rows = [
        [photograph.shows, *(f"{score.name} {percent(score)}" for score in prediction.scores)]
        for photograph, prediction in zip(photographs, predictions, strict=True)
    ]
    show_table(("photograph", "taken for", "or for", "or for"), rows, text_columns=4)
    with atomic_path(picture) as path:
        photograph_grid(photographs, predictions, words).save(path)
    print(f"Photographs: {picture}")
