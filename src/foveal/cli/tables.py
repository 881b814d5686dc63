"""Results as tables: on the console, and as JSON, CSV and Markdown files."""

import csv
import io
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import show_table
from foveal.files import require_writable, write_text

Cell = str | int | float | None

FORMATS = ("json", "csv", "markdown")


@dataclass(frozen=True)
class Table:
    """Rows of values under named columns.

    Attributes:
        title: what it is, in a few words.
        columns: names; numbers say their unit.
        rows: values; None where there is none.
        decimals: of the columns that hold fractions.
        text_columns: how many, from the left, hold words.
        most: rows that the console shows; the files have all.
        foot: what stands below it in Markdown.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    decimals: int = 2
    text_columns: int = 1
    most: int | None = None
    foot: str = ""

    def cells(self) -> list[list[str]]:
        """The rows as a person reads them."""
        return [[self._shown(value) for value in row] for row in self.rows]

    def _shown(self, value: Cell) -> str:
        if value is None:
            return "–"
        return f"{value:.{self.decimals}f}" if isinstance(value, float) else str(value)


def add_export_arguments(parser: ArgumentParser) -> None:
    """--json, --csv and --markdown."""
    for name in FORMATS:
        parser.add_argument(
            f"--{name}", metavar="FILE", help="write the figures to FILE, or - for standard output"
        )


def export_to_stdout(options: Namespace) -> bool:
    """Whether a file format takes the place of the console's tables.

    Raises:
        UsageError: more than one does.
        FovealError: a file cannot be written, which is better known before the work than after.
    """
    for target in (getattr(options, name) for name in FORMATS):
        if target is not None and target != "-":
            require_writable(target)
    chosen = [name for name in FORMATS if getattr(options, name) == "-"]
    if len(chosen) > 1:
        raise UsageError(
            f"Standard output takes one format, got --{' - and --'.join(chosen)} -; "
            "write the others to files."
        )
    return bool(chosen)


def export(
    options: Namespace,
    tables: Sequence[Table],
    content: Any,
    flat: Sequence[Table] | None = None,
) -> None:
    """Write what the flags ask for, each file whole or not at all.

    Args:
        options: with the flags of `add_export_arguments`.
        tables: for CSV and Markdown.
        content: plain values for JSON.
        flat: for CSV in the place of `tables`.
    """
    for name in FORMATS:
        target = getattr(options, name)
        if target is None:
            continue
        chosen = flat if name == "csv" and flat is not None else tables
        text = _text(name, chosen, content)
        if target == "-":
            sys.stdout.write(text)
        else:
            write_text(target, text)


def show(tables: Sequence[Table]) -> None:
    """Print the tables; those that are too long up to their most important rows."""
    for number, table in enumerate(tables):
        if number:
            print()
        if len(tables) > 1:
            print(table.title)
        cells = table.cells()
        show_table(table.columns, cells[: table.most], text_columns=table.text_columns)
        if table.most is not None and len(cells) > table.most:
            print(f"… and {len(cells) - table.most} more; --csv, --markdown and --json have all.")


def to_csv(tables: Sequence[Table]) -> str:
    """The tables as one of comma-separated values, numbers in full precision.

    Several tables share the union of their columns, behind one that says which table a row is of.
    """
    several = len(tables) > 1
    header = list(dict.fromkeys(name for table in tables for name in table.columns))
    file = io.StringIO()
    writer = csv.DictWriter(file, ["table", *header] if several else header, lineterminator="\n")
    writer.writeheader()
    for table in tables:
        for row in table.rows:
            values = dict(zip(table.columns, row, strict=True))
            writer.writerow({"table": table.title, **values} if several else values)
    return file.getvalue()


def to_markdown(tables: Sequence[Table]) -> str:
    """The tables under their titles."""
    parts = []
    for table in tables:
        words = table.text_columns
        rule = [" --- " if index < words else " ---: " for index in range(len(table.columns))]
        lines = [f"### {table.title}", "", _line(table.columns), f"|{'|'.join(rule)}|"]
        foot = ["", table.foot] if table.foot else []
        parts.append("\n".join([*lines, *(_line(row) for row in table.cells()), *foot]))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _text(name: str, tables: Sequence[Table], content: Any) -> str:
    if name == "csv":
        return to_csv(tables)
    if name == "markdown":
        return to_markdown(tables)
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
