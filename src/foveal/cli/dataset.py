"""`foveal dataset`: annotations checked, and those of other layouts converted."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import counted, note
from foveal.cli.progress import progress_bar
from foveal.cli.tables import Table, add_export_arguments, export, export_to_stdout, show
from foveal.data.ade20k import convert_ade20k
from foveal.data.cityscapes import convert_cityscapes
from foveal.data.coco import read_coco, write_coco
from foveal.data.problems import AnnotationProblems, require_no_problems
from foveal.data.voc import convert_voc
from foveal.errors import closest
from foveal.files import require_writable

SUMMARY = "check a COCO file, or convert VOC, ADE20K or Cityscapes"

# From a collection and a folder to how many scenes each split has.
Converter = Callable[[str, str, Callable[[int, int], None]], dict[str, int]]


@dataclass(frozen=True)
class Kind:
    """One thing that the command does.

    Attributes:
        run: does it.
        needs: arguments that it cannot do without.
        takes: others that it knows; each is left out or refused elsewhere.
    """

    run: Callable[[Namespace], None]
    needs: tuple[str, ...]
    takes: tuple[str, ...] = ()


def check(options: Namespace) -> None:
    """Count and name what is wrong with a COCO file."""
    quiet = export_to_stdout(options)
    found = read_coco(options.data, options.images, masks=False if options.boxes else None)
    problems = found.problems
    table = problem_table(problems)
    if not quiet:
        _tell(problems, len(found.classes))
        if problems:
            show([table])
    export(options, [table], asdict(problems))
    if options.strict:
        require_no_problems(problems)


def voc(options: Namespace) -> None:
    """Convert VOC's XML files into a COCO file."""
    if Path(options.output).suffix != ".json":
        raise UsageError(f"A COCO file is named *.json, got --output {options.output!r}.")
    require_writable(options.output)
    quiet = export_to_stdout(options)
    classes = None if options.classes is None else options.classes.split(",")
    done = convert_voc(
        options.source,
        split=options.split,
        classes=classes,
        difficult=options.difficult or "crowd",
        first_pixel=1 if options.first_pixel is None else options.first_pixel,
    )
    table = problem_table(done.problems)
    if not quiet:
        _tell(done.problems, len(done.classes))
        if done.problems:
            show([table])
    export(options, [table], asdict(done.problems))
    if options.strict:
        require_no_problems(done.problems)
    write_coco(options.output, done.content)
    note(f"Wrote {options.output}. Check it with its images: foveal dataset check")


def mask_folder(convert: Converter) -> Callable[[Namespace], None]:
    """What converts a collection into a mask folder."""

    def run(options: Namespace) -> None:
        with progress_bar("scenes") as advance:
            counts = convert(options.source, options.output, advance)
        amounts = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
        note(
            f"Wrote {options.output}: {amounts}. Train on it: foveal train --task segmentation "
            f"--data {options.output}"
        )

    return run


_FIGURES = ("json", "csv", "markdown")

KINDS = {
    "check": Kind(check, ("data", "images"), ("boxes", "strict", *_FIGURES)),
    "voc": Kind(
        voc,
        ("source", "output"),
        ("split", "classes", "difficult", "first_pixel", "strict", *_FIGURES),
    ),
    "ade20k": Kind(mask_folder(convert_ade20k), ("source", "output")),
    "cityscapes": Kind(mask_folder(convert_cityscapes), ("source", "output")),
}


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags; which of them a kind takes, `KINDS` says."""
    add = parser.add_argument
    add("kind", metavar="KIND", help=f"one of {', '.join(KINDS)}")
    add(
        "source",
        nargs="?",
        metavar="SOURCE",
        help="that is converted; voc: with Annotations/ in it",
    )
    add("--output", metavar="PATH", help="to write; voc: a JSON file, others: a folder")
    add("--split", metavar="NAME", help="voc: ImageSets/Main/NAME.txt (default: all XML files)")
    add("--classes", metavar="NAMES", help="voc: with commas between, in the order wanted")
    add(
        "--difficult",
        type=Literal["crowd", "keep", "drop"],
        help="voc: what becomes of difficult objects (default: crowd, which judging passes over)",
    )
    add(
        "--first-pixel",
        type=Literal[0, 1],
        help="voc: number of the first pixel (default: 1, as VOC; some tools count from 0)",
    )
    add("--data", metavar="FILE.json", help="check: a COCO file")
    add("--images", metavar="DIR", help="check: what its file names are relative to")
    add("--boxes", action="store_true", help="check: do not look at masks")
    add("--strict", action="store_true", help="end with exit code 2 if there are problems")
    add_export_arguments(parser)


def run(options: Namespace) -> None:
    """Do what the kind says.

    Raises:
        UsageError: there is no such kind, or it needs or does not take an argument.
    """
    kind = KINDS.get(options.kind)
    if kind is None:
        raise UsageError(
            f"foveal dataset has no kind {options.kind!r}.{closest(options.kind, KINDS)} "
            f"It has {', '.join(KINDS)}."
        )
    given = {n for n, value in vars(options).items() if value is not None and value is not False}
    missing = [name for name in kind.needs if name not in given]
    if missing:
        raise UsageError(
            f"foveal dataset {options.kind} needs {', '.join(map(_argument, missing))}; "
            "see foveal dataset --help."
        )
    strange = sorted(given - {"kind", *kind.needs, *kind.takes})
    if strange:
        raise UsageError(
            f"foveal dataset {options.kind} does not take {', '.join(map(_argument, strange))}; "
            "see foveal dataset --help."
        )
    kind.run(options)


def problem_table(problems: AnnotationProblems) -> Table:
    """The problems, a kind a row."""
    rows = tuple(
        (
            problem.kind,
            problem.outcome,
            "; ".join(problem.examples) + ("; …" if problem.count > len(problem.examples) else ""),
            problem.count,
        )
        for problem in problems.found
    )
    columns = ("problem", "outcome", "examples", "count")
    return Table(f"Problems of {problems.where}", columns, rows, text_columns=3)


def _tell(problems: AnnotationProblems, classes: int) -> None:
    (images, images_used), (objects, objects_used) = problems.images, problems.annotations
    verdict = counted(problems.total, "problem") if problems else "no problems"
    kinds = f"{classes} class{'' if classes == 1 else 'es'}"
    note(
        f"{problems.where}: {images_used} of {images} images and {objects_used} of {objects} "
        f"annotations can be used, {kinds}, {verdict}."
    )


def _argument(name: str) -> str:
    return "SOURCE" if name == "source" else "--" + name.replace("_", "-")
