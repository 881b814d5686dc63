"""`foveal quickstart`: train on real scans of digits, and report."""

from argparse import Namespace

from jsonargparse import ArgumentParser

from foveal.cli.console import note
from foveal.cli.train import describe, fit
from foveal.recipes.classification import ClassificationRun
from foveal.recipes.quickstart import quickstart
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
    """Train, report, and print the report's path."""
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
