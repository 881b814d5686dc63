"""What a person sees of a run: a bar for the steps, a line for each evaluation."""

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class TrainProgress:
    """A rich progress bar with images per second, loss, learning rate and time left."""

    def __init__(self, total_steps: int, done: int = 0, *, show: bool = True):
        # Standard error, so that a command's result can be piped.
        self.console = Console(stderr=True, quiet=not show)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (show and self.console.is_terminal),
            transient=True,
        )
        self._task = self._bar.add_task("", total=total_steps, completed=done, figures="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step(self, *, loss: float, lr: float, images_per_second: float) -> None:
        """Move on by one step."""
        figures = f"{images_per_second:.0f} images/s, loss {loss:.3f}, lr {lr:.2e}"
        self._bar.update(self._task, advance=1, figures=figures)

    def evaluation(self, reached: str, figures: Mapping[str, float], best: bool) -> None:
        """Print an evaluation's figures after how far the run has come, such as "epoch 3/30"."""
        shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self.console.print(f"{reached}: {shown}{' (best)' if best else ''}", highlight=False)
