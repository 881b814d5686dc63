"""`foveal quantize`: a network in 8-bit integers, and what that costs it."""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import note, show_table, skipped_note, write_json
from foveal.cli.model_choice import add_model_arguments, chosen_model
from foveal.cli.progress import progress_bar
from foveal.errors import FovealError
from foveal.files import require_writable
from foveal.tools.evaluate import EvaluationImages, EvaluationSettings, find_images
from foveal.tools.quantize.calibration import calibration_images
from foveal.tools.quantize.options import STATIC, SUFFIXES, QuantizeOptions, require_suffix
from foveal.tools.quantize.report import EXPECTED_SHARE, Quantization
from foveal.tools.quantize.run import quantize_model
from foveal.tools.trained import TrainedModel

SUMMARY = "write a network in 8-bit integers, with layers that hurt kept in float"

# Layers on the console.
_MOST_LAYERS = 10


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    add_model_arguments(parser)
    add = parser.add_argument
    add("--output", required=True, metavar="FILE", help="named by its format, see --format")
    add("--format", choices=list(SUFFIXES), help="default: what FILE's name says")
    add("--calibration", metavar="DIR", help="images like those it will see; torchao needs none")
    add("--calibration-images", type=int, default=256, help="how many at most (default: 256)")
    add("--data", metavar="DIR", help="held-out labelled images to judge by")
    add(
        "--max-drop",
        type=float,
        default=1.0,
        metavar="POINTS",
        help="what top-1 may fall by, in percentage points (default: 1)",
    )
    add("--rank-layers", action="store_true", help="say what every layer does to the outputs")
    add("--fixed", action="store_true", help="for one image of --image-size alone")
    add("--batch-size", type=int, default=32, help="images judged at a time (default: 32)")
    add("--workers", type=int, default=0, help="processes that load them (default: 0)")
    add("--json", metavar="FILE", help="write the report to FILE, or - for standard output")


def run(options: Namespace) -> None:
    """Quantise, and say what it came to."""
    target = Path(options.output)
    format = options.format or _format_of(target)
    require_suffix(format, target)
    require_writable(target)
    if options.json not in (None, "-"):
        require_writable(options.json)
    wanted = QuantizeOptions(
        format=format,
        calibration_images=options.calibration_images,
        max_drop=options.max_drop,
        dynamic=not options.fixed,
        rank_layers=options.rank_layers,
    )
    if format in STATIC and options.calibration is None:
        raise UsageError(
            f"--format {format} needs --calibration DIR: a few hundred images like those that the "
            "network will see; --format torchao needs none."
        )
    trained = chosen_model(options)
    trained.model.cpu()
    if not trained.card.classes:
        raise FovealError(f"{trained.card.model} has no classifier, so it cannot be judged.")
    with progress_bar("steps") as done:
        settings = EvaluationSettings(batch_size=options.batch_size, workers=options.workers)
        images = _images(options, trained)
        judged = None if options.data is None else find_images(trained, options.data)
        found = quantize_model(trained, target, images, wanted, judged, settings, done)
    if judged is not None:
        skipped_note(judged.skipped)
    if options.json is not None:
        write_json(options.json, plain_quantization(found))
    if options.json != "-":
        _show(found, judged, wanted)


def _images(options: Namespace, trained: TrainedModel) -> np.ndarray:
    """Inputs to calibrate with, or where there is nothing to calibrate, to try the file on."""
    preprocessing = trained.card.preprocessing
    source = options.calibration or options.data
    if source is None:
        side = preprocessing.image_size
        shape = (4, preprocessing.in_chans, side, side)
        return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return calibration_images(source, preprocessing, options.calibration_images)


def _format_of(target: Path) -> str:
    for name, suffix in SUFFIXES.items():
        if suffix == target.suffix:
            return name
    said = ", ".join(f"{suffix} ({name})" for name, suffix in SUFFIXES.items())
    raise UsageError(f"--output ends in one of {said}, got {target.name!r}.")


def _show(found: Quantization, judged: EvaluationImages | None, wanted: QuantizeOptions) -> None:
    rows = [
        _row("float32", found, "float32", found.float_megabytes),
        _row("every layer in int8", found, "every_layer", found.every_layer_megabytes),
        _row("written", found, "file", found.megabytes),
    ]
    show_table(("file", "MB", "% of float32", "top-1 %"), rows)
    if found.ranking:
        kept = set(found.kept_float)
        ranked = found.ranking[: max(_MOST_LAYERS, len(kept))]
        print()
        show_table(
            ("layer", "kept in", "error of outputs if it alone is in int8"),
            [(r.name, "float32" if r.name in kept else "int8", f"{r.error:.4f}") for r in ranked],
            text_columns=2,
        )
    _show_remarks(found, wanted)


def _row(name: str, found: Quantization, figure: str, megabytes: float) -> tuple[str, ...]:
    share = 100 * megabytes / found.float_megabytes
    top1 = "–" if found.accuracy is None else f"{getattr(found.accuracy, figure):.2f}"
    return (name, f"{megabytes:.2f}", f"{share:.1f}", top1)


def _show_remarks(found: Quantization, wanted: QuantizeOptions) -> None:
    accuracy = found.accuracy
    kept = (
        f"{len(found.kept_float)} of {len(found.layers)} layers kept in float: "
        f"{', '.join(found.kept_float)}"
        if found.kept_float
        else f"all {len(found.layers)} layers in int8"
    )
    note(f"{found.files[0]}: {found.model}, {kept}.")
    if accuracy is None:
        note("Accuracy is unknown: give held-out images with --data to have it guarded.")
    else:
        note(
            f"Judged by {accuracy.num_images} images ({accuracy.images}): top-1 fell by "
            f"{accuracy.drop:.2f} points, of {wanted.max_drop:g} allowed; same class as float32 "
            f"for {accuracy.agreement:.2f} % of them."
        )
    sizes = ", ".join(f"{s.error:.3f} at {s.shape[2]} × {s.shape[3]}" for s in found.sizes)
    note(f"Outputs are off by (of their norm): {sizes}.")
    if found.share_before_exceptions > EXPECTED_SHARE:
        note(
            f"With every layer in int8 the file is {100 * found.share_before_exceptions:.0f} % of "
            "float32: the graph itself, which is not quantised, is large beside so few weights."
        )


def plain_quantization(found: Quantization) -> dict[str, Any]:
    """A report as plain values."""
    return {
        **asdict(found),
        "files": [str(path) for path in found.files],
        "share_before_exceptions": found.share_before_exceptions,
        "share": found.share,
    }
