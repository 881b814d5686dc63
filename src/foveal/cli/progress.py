"""A bar on standard error for what takes longer than a person likes to wait in silence."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer

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
    Nothing else should be printed meanwhile.

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
        transient=True,
    )
    task = bar.add_task("", total=None)
    timer = Timer(patience, bar.start)
    timer.daemon = True
    if console.is_terminal:
        timer.start()
    try:
        yield lambda done, total: bar.update(task, completed=done, total=total)
    finally:
        timer.cancel()
        if timer.ident is not None:
            # A bar that is just being started must not outlive this.
            timer.join()
        if bar.live.is_started:
            bar.stop()
