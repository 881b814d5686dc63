"""`foveal export`: a network as a file that runs elsewhere."""

from argparse import Namespace
from pathlib import Path

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import note, show_table
from foveal.cli.model_choice import add_model_arguments, chosen_model
from foveal.cli.progress import progress_bar
from foveal.files import require_writable
from foveal.tools.export.formats import FORMATS
from foveal.tools.export.run import checked_format, export_model
from foveal.tools.export.subject import HEADS, ExportOptions

SUMMARY = "write a network to a file that runs elsewhere, checked at several sizes"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    add_model_arguments(parser)
    add = parser.add_argument
    add("--output", required=True, metavar="FILE", help="named by its format, see --format")
    add(
        "--format",
        choices=list(FORMATS),
        help="default: what FILE's name says, torch-export of .pt2",
    )
    add("--head", choices=list(HEADS), default="classification", help="logits, or all stages' maps")
    add("--fixed", action="store_true", help="for images of --image-size and --batch-size alone")
    add("--batch-size", type=int, help="images that are traced (default: 2; 1 with --fixed)")
    add("--normalize", action="store_true", help="take intensities in [0, 1], normalise inside")


def run(options: Namespace) -> None:
    """Export, and say how equal the file is."""
    require_writable(options.output)
    format = options.format or _format_of(options.output)
    checked_format(format, options.output)
    if options.batch_size is not None and options.batch_size < 1:
        raise UsageError(f"--batch-size is 1 or more, got {options.batch_size}.")
    trained = chosen_model(options)
    side = trained.card.preprocessing.image_size
    wanted = ExportOptions(
        head=options.head,
        image_size=(side, side),
        batch_size=options.batch_size or (1 if options.fixed else 2),
        dynamic=not options.fixed,
        preprocessing=options.normalize,
    )
    trained.model.cpu()
    with progress_bar("steps") as done:
        export = export_model(trained, options.output, format, wanted, done)
    rows = [
        (" × ".join(str(n) for n in check.shape), f"{check.error:.1e}") for check in export.checks
    ]
    show_table(("image", "difference from the network"), rows)
    note(
        f"{export.files[0]}: {trained.card.model} for images of {export.sizes}, "
        f"{export.megabytes:.1f} MB"
        f"{' with what lies beside it' if len(export.files) > 1 else ''}; largest difference "
        f"{export.worst_error:.1e} of the largest output."
    )


def _format_of(output: str) -> str:
    suffix = Path(output).suffix
    for name, format in FORMATS.items():
        if format.suffix == suffix:
            return name
    suffixes = ", ".join(dict.fromkeys(format.suffix for format in FORMATS.values()))
    raise UsageError(f"--output ends in one of {suffixes}, got {output!r}; or give --format.")
