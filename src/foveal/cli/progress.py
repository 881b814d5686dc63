"""A bar on standard error for what takes longer than a person likes to wait in silence."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PATIENCE = 2.0


@contextmanager
def progress_bar(unit: str, patience: float = PATIENCE) -> Iterator[Callable[[int, int], None]]:
    """A function to call with how many of how many are done.

    The bar shows on terminals only, once `patience` seconds have gone by, and leaves no trace.

    Args:
        unit: what is counted, such as "images".
        patience: in seconds.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(unit),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    task = bar.add_task("", total=None)
    start = time.monotonic()
    shown = False

    def advance(done: int, total: int) -> None:
        nonlocal shown
        bar.update(task, completed=done, total=total)
        if not shown and time.monotonic() - start > patience:
            shown = True
            bar.start()

    try:
        yield advance
    finally:
        bar.stop()
