"""`foveal explain`: what networks look at in images, as one page."""

from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import note
from foveal.cli.model_choice import add_models_arguments, chosen_models
from foveal.cli.progress import progress_bar
from foveal.errors import MissingExtraError
from foveal.files import require_writable
from foveal.tools.explain.class_activation import METHODS
from foveal.tools.explain.picture import read_pictures
from foveal.tools.explain.run import Explained, ExplainSettings, explain_images
from foveal.tools.loopback import usable_port
from foveal.tools.report.explanation import write_explanation_page
from foveal.tools.report.explanation_files import write_arrays, write_figures
from foveal.tools.report.server import serve

SUMMARY = "show what networks look at in images, side by side on one page"

DEFAULT_OUTPUT = "foveal-explain"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files")
    add = parser.add_argument
    add_models_arguments(parser)
    add("--output", metavar="DIR", help=f"default: {DEFAULT_OUTPUT}, replaced at each run")
    add("--overwrite", action="store_true", help="replace an earlier page in DIR")
    add("--top", type=int, default=5, help="classes an image (default: 5)")
    add(
        "--queries",
        type=int,
        default=7,
        help="along each side of the picture, that a click chooses from (default: 7)",
    )
    add(
        "--method",
        choices=[*METHODS, "none"],
        default="gradcam",
        help="of the class activation map (default: gradcam)",
    )
    add(
        "--faithful",
        action="store_true",
        help="also insertion and deletion curves of the class activation map",
    )
    add("--erf", action="store_true", help="also the effective receptive field of each network")
    add("--figures", action="store_true", help="also PNG and SVG figures, for papers")
    add("--arrays", action="store_true", help="also all readings as NPZ files")
    add("--serve", action="store_true", help="then answer any click at a page on this machine")
    add("--port", type=int, default=0, help="of --serve (default: any that is free)")


def run(options: Namespace) -> None:
    """Explain, write, and say where."""
    settings = _settings(options)
    page = _page(options)
    pictures = read_pictures(options.images)
    for picture in pictures:
        for notice in picture.notices:
            note(f"{picture.name}: {notice}")
    models = chosen_models(options)
    with progress_bar("steps") as done:
        explained = explain_images(models, pictures, settings, done)
    for model in explained.explanation.images[0].models:
        if model.note is not None:
            note(f"{model.model}: {model.note}")
    _remove_earlier(page)
    write_explanation_page(explained.explanation, page)
    print(f"Page: {page}")
    _write_more(options, explained, page.parent)
    if options.serve:
        serve(
            explained.explanation,
            explained.query,
            port=options.port,
            started=lambda address: note(f"{address} answers any click; Ctrl-C ends it."),
        )


def _settings(options: Namespace) -> ExplainSettings:
    """What to compute, if the flags make sense together and what they need is installed."""
    for name in ("top", "queries"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is 1 or more, got {getattr(options, name)}.")
    if not 0 <= options.port < 2**16:
        raise UsageError(f"--port is 0 to 65535, got {options.port}.")
    if options.port and not options.serve:
        raise UsageError("--port goes with --serve.")
    if options.faithful and options.method == "none":
        raise UsageError("--faithful needs a --method other than none, whose map it judges.")
    if options.faithful and find_spec("pytorch_grad_cam") is None:
        raise MissingExtraError("grad-cam", "explain")
    if options.figures and find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", "explain")
    return ExplainSettings(
        top=options.top,
        queries=options.queries,
        method=None if options.method == "none" else options.method,
        faithfulness=options.faithful,
        receptive_field=options.erf,
        keep_readings=options.arrays or options.serve,
    )


def _page(options: Namespace) -> Path:
    """Where the page goes, if it and all else may be written and served."""
    page = Path(options.output or DEFAULT_OUTPUT) / "index.html"
    if options.output is not None and not options.overwrite and page.exists():
        raise UsageError(
            f"{page} is there already; replace it with --overwrite, or choose another --output."
        )
    require_writable(page)
    for name in ("figures", "arrays"):
        if getattr(options, name):
            require_writable(page.parent / name / "file")
    if options.port:
        usable_port(options.port)
    return page


def _remove_earlier(page: Path) -> None:
    """Figures and arrays of the page that is about to be replaced, and nothing else."""
    if page.exists():
        for pattern in ("figures/*--*.png", "figures/*--*.svg", "arrays/*--*.npz"):
            for path in page.parent.glob(pattern):
                path.unlink()


def _write_more(options: Namespace, explained: Explained, folder: Path) -> None:
    """Figures and arrays, where asked for."""
    if options.figures:
        with progress_bar("figures") as done:
            write_figures(explained.explanation, folder / "figures", done)
        print(f"Figures: {folder / 'figures'}")
    if options.arrays:
        with progress_bar("files") as done:
            written = write_arrays(explained, folder / "arrays", done)
        if written:
            print(f"Arrays: {folder / 'arrays'}")
        else:
            note("No arrays, as no model has readings.")
