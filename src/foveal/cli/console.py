"""What the commands show: notes for people on standard error, results on standard output."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from foveal.data.images import BadImage
from foveal.files import write_text


def note(text: str) -> None:
    """A line for the person at the terminal."""
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


def counted(count: int, what: str) -> str:
    """ "1 image", "2 images": a count and what is counted, whose plural ends in s."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def banner(text: str) -> None:
    """What must not be overlooked."""
    Console(stderr=True).print(Panel(text, border_style="red", highlight=False))


def skipped_note(skipped: Sequence[BadImage]) -> None:
    """How many unreadable images were left out, and which."""
    if skipped:
        note(f"Left out {len(skipped)} images that cannot be read:")
        for bad in skipped:
            note(f"  {bad}")


def show_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1
) -> None:
    """A table on a terminal; tab-separated lines in a pipe.

    Args:
        header: names of the columns.
        rows: the cells.
        text_columns: how many, from the left, hold words; the others hold numbers.
    """
    console = Console()
    if not console.is_terminal:
        for row in (header, *rows):
            sys.stdout.write("\t".join(row) + "\n")
        return
    table = Table()
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index < text_columns else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def write_json(path: str, content: Any) -> None:
    """Plain values as a JSON file; "-" for standard output."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        write_text(path, text)
