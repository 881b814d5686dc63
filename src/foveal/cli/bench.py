"""`foveal bench`: how long networks take, in PyTorch and in other engines."""

import time
from argparse import Namespace
from pathlib import Path

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import note
from foveal.cli.progress import progress_bar
from foveal.cli.tables import Cell, Table, add_export_arguments, export, export_to_stdout, show
from foveal.errors import MissingExtraError, OptionError
from foveal.files import require_writable
from foveal.tools.latency.engines import ENGINES
from foveal.tools.latency.hardware import described
from foveal.tools.latency.run import DEFAULT_RUNS, LatencySettings, measure_latency
from foveal.tools.latency.table import LatencyRow, LatencyTable

SUMMARY = "time networks side by side, in one engine or several"

_PICTURES = (".png", ".svg", ".pdf")
# Files are written anew after a round once this many seconds have gone by.
_EVERY = 2.0
# Load for each processor from which on other work is in the way.
_BUSY = 0.5

_COLUMNS = (
    "model",
    "engine",
    "image size",
    "parameters (M)",
    "GFLOP",
    "file MB",
    "peak memory MB",
    "difference",
    "latency ms",
    "p10 ms",
    "p90 ms",
    "× first",
    "beyond noise",
    "remarks",
)


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    add = parser.add_argument
    add(
        "--models",
        required=True,
        metavar="A,B,…",
        help="networks by name, timm's as timm:NAME; the first is what all are compared with",
    )
    add(
        "--engines",
        default="eager,prepared,onnx",
        metavar="A,B,…",
        help=f"of {', '.join(ENGINES)} (default: eager,prepared,onnx)",
    )
    add("--batch", type=int, default=1, help="images a call (default: 1)")
    add("--image-size", type=int, metavar="PIXELS", help="default: each network's own")
    add("--threads", type=int, help="on the processor (default: 4, or as many as there are)")
    add(
        "--protocol",
        choices=list(DEFAULT_RUNS),
        default="sound",
        help="sound: paired rounds, medians, a noise floor; efficientmod: that paper's, one after "
        "the other and the mean (default: sound)",
    )
    add(
        "--runs",
        type=int,
        help=f"rounds (sound, default: {DEFAULT_RUNS['sound']}), or calls of each row "
        f"(efficientmod, default: {DEFAULT_RUNS['efficientmod']})",
    )
    add_export_arguments(parser)
    add("--plot", metavar="FILE", help="draw latency against published accuracy: .png, .svg, .pdf")


def run(options: Namespace) -> None:
    """Measure, keeping what is done, and show the table."""
    settings, models = _settings(options), _names(options.models, "--models")
    quiet = export_to_stdout(options)
    picture = _picture(options.plot)
    table, stopped = _measure(options, models, settings)
    if not quiet:
        show([latency_table(table)])
        for line in _remarks(table):
            print(line)
    _write(options, table)
    if picture is not None:
        _draw(table, picture)
    if stopped:
        raise KeyboardInterrupt(_what_is_kept(options, table, models, settings))


def _measure(
    options: Namespace, models: list[str], settings: LatencySettings
) -> tuple[LatencyTable, bool]:
    """What is known in the end, and whether a person stopped it; files grow with it."""
    table: LatencyTable | None = None
    written = 0.0
    with progress_bar("steps") as advance:
        growing = measure_latency(models, settings, advance)
        try:
            for table in growing:
                # Rounds follow each other quickly, rows do not.
                if not table.rounds or time.monotonic() - written > _EVERY:
                    _write(options, table, files_only=True)
                    written = time.monotonic()
        except KeyboardInterrupt:
            if table is None or not table.rows:
                raise
            return table, True
        finally:
            growing.close()
    assert table is not None
    return table, False


def _settings(options: Namespace) -> LatencySettings:
    """What to measure, if the flags make sense."""
    for name in ("batch", "image_size", "threads", "runs"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is 1 or more, got {value}.")
    return LatencySettings(
        engines=tuple(_names(options.engines, "--engines")),
        batch=options.batch,
        image_size=options.image_size,
        threads=options.threads,
        protocol=options.protocol,
        runs=options.runs,
    )


def _names(text: str, flag: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"{flag} takes names, separated by commas, got {text!r}.")
    return names


def _picture(target: str | None) -> Path | None:
    """Where the picture goes, once it is known that it can be drawn."""
    if target is None:
        return None
    path = Path(target)
    if path.suffix.lower() not in _PICTURES:
        raise OptionError(f"--plot takes a name ending in {', '.join(_PICTURES)}, got {target!r}.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("matplotlib", "explain") from error
    require_writable(path)
    return path


def _draw(table: LatencyTable, path: Path) -> None:
    from foveal.tools.latency.plot import plot_latency

    drawn = plot_latency(table, path)
    if drawn < len(table.timed):
        note(f"{path} shows {drawn} of {len(table.timed)} rows: the others' accuracy is not known.")


def latency_table(table: LatencyTable) -> Table:
    """A row a network and engine."""
    return Table(
        _title(table),
        _COLUMNS,
        tuple(_cells(row) for row in table.rows),
        text_columns=2,
        foot=" ".join(_remarks(table)),
    )


def _cells(row: LatencyRow) -> tuple[Cell, ...]:
    times = row.milliseconds
    beyond = None if row.beyond_noise is None else ("yes" if row.beyond_noise else "no")
    return (
        row.model,
        row.engine,
        row.image_size,
        row.parameters / 1e6,
        row.gflop,
        row.file_mb,
        row.peak_memory_mb,
        None if row.disagreement is None else f"{row.disagreement:.0e}",
        row.latency_ms,
        None if times is None else times.p10,
        None if times is None else times.p90,
        row.ratio,
        beyond,
        row.reason or row.note or None,
    )


def _title(table: LatencyTable) -> str:
    settings = table.settings
    how = (
        f"median of {table.rounds} paired rounds"
        if table.protocol == "sound"
        else f"mean of {settings['runs']} runs"
    )
    threads = f"{settings['threads']} thread{'s' * (settings['threads'] > 1)}"
    return f"Latency: batch {settings['batch']}, {threads}, {how}"


def _remarks(table: LatencyTable) -> list[str]:
    """The noise floor, and what it was measured with."""
    lines = []
    if table.noise is not None:
        lines.append(
            f"Noise floor, the first row over itself: {table.noise:.3f} with p10–p90; a ratio "
            "within it, or within its inverse, is no difference."
        )
    load, processors = table.hardware["load_before"], table.hardware["cpu_cores"]
    if load is not None and load > _BUSY * (processors or 1):
        lines.append(
            f"The machine was busy before the start (load {load} on {processors} processors): "
            "these times are of that, too."
        )
    return [*lines, described(table.hardware)]


def _write(options: Namespace, table: LatencyTable, *, files_only: bool = False) -> None:
    chosen = options
    if files_only:
        targets = {name: getattr(options, name) for name in ("json", "csv", "markdown")}
        chosen = Namespace(
            **{n: None if target == "-" else target for n, target in targets.items()}
        )
    export(chosen, [latency_table(table)], table.to_plain())


def _what_is_kept(
    options: Namespace, table: LatencyTable, models: list[str], settings: LatencySettings
) -> str:
    """What an interrupted measurement leaves, in a sentence."""
    files = [getattr(options, name) for name in ("json", "csv", "markdown", "plot")]
    kept = [file for file in files if file not in (None, "-")]
    what = f"{len(table.timed)} of {len(models) * len(settings.engines)} rows timed"
    if table.rounds:
        what += f", {table.rounds} of {settings.runs or DEFAULT_RUNS['sound']} rounds"
    rest = (
        f"{' and '.join(kept)} {'keeps' if len(kept) == 1 else 'keep'} them"
        if kept
        else "with --json FILE they would be kept"
    )
    return f"Stopped with {what}; {rest}."
