"""`foveal eval --sizes`: one model at several image sizes."""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from foveal.cli.arguments import UsageError
from foveal.cli.console import note, skipped_note
from foveal.cli.image_choice import chosen_images, chosen_settings
from foveal.cli.model_choice import chosen_model
from foveal.cli.progress import progress_bar
from foveal.cli.tables import Cell, Table, export, show
from foveal.tools.sweep import Sweep, SweepRow, evaluate_sizes


def image_sizes(text: str) -> list[int]:
    """ "128,224" as numbers.

    Raises:
        UsageError: something in it is no whole number.
    """
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"--sizes takes sides in pixels like 128,224,384, got {text!r}."
        ) from error


def run_sweep(options: Namespace, *, quiet: bool) -> None:
    """Evaluate at every size and show the figures; nothing on the console if `quiet`."""
    if options.image_size is not None:
        raise UsageError("--sizes and --image-size exclude each other; give one of them.")
    sizes = image_sizes(options.sizes)
    trained = chosen_model(options)
    with progress_bar("images") as advance:
        images = chosen_images(trained, options)
        sweep = evaluate_sizes(trained, images, sizes, chosen_settings(options, advance))
    skipped_note(images.skipped)
    tables = [all_figures(sweep)] if sweep.modes() == (None,) else by_mode(sweep)
    if not quiet:
        note(f"{sweep.num_images} images: {sweep.images}.")
        note(f"{sweep.model}, trained at {sweep.trained_size} pixels, the same weights throughout.")
        show(tables)
        note(f"Speed and memory: {sweep.rows[0].cost.device}, {sweep.rows[0].cost.memory_of}.")
    flat = [all_figures(sweep)]
    export(options, tables if len(tables) == 1 else [*tables, *flat], plain_sweep(sweep), flat)


def all_figures(sweep: Sweep) -> Table:
    """A row a size and mode."""
    columns = ("image size", "top-1 %", "top-5 %", "ECE %", "loss", "images/s", "peak memory MB")
    rows = tuple(
        (row.image_size, row.top1, row.top5, row.ece, row.loss, *_cost(row)) for row in sweep.rows
    )
    if sweep.modes() != (None,):
        columns = ("mode", *columns)
        rows = tuple((row.mode, *cells) for row, cells in zip(sweep.rows, rows, strict=True))
        return Table("All figures", columns, rows)
    return Table("Image sizes", columns, rows, text_columns=0)


def by_mode(sweep: Sweep) -> list[Table]:
    """The modes side by side, a table a figure."""
    sizes = tuple(dict.fromkeys(row.image_size for row in sweep.rows))
    columns = ("image size", *(str(mode) for mode in sweep.modes()))

    def table(title: str, cell: Any, decimals: int) -> Table:
        rows = tuple((s, *(cell(sweep.at(s)[mode]) for mode in sweep.modes())) for s in sizes)
        return Table(title, columns, rows, decimals=decimals, text_columns=0)

    return [
        table("Top-1 %", lambda row: row.top1, 2),
        table("Images per second", lambda row: row.cost.images_per_second, 1),
        table("Peak memory in MB", lambda row: row.cost.peak_memory_mb, 0),
    ]


def plain_sweep(sweep: Sweep) -> dict[str, Any]:
    """A sweep as plain values."""
    rows = [{**asdict(row), **asdict(row.cost)} for row in sweep.rows]
    for row in rows:
        del row["cost"]
    return {**asdict(sweep), "rows": rows}


def _cost(row: SweepRow) -> tuple[Cell, Cell]:
    return row.cost.images_per_second, row.cost.peak_memory_mb
