"""What the loop asks of a task."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

Batch = Mapping[str, Any]


class Scored(Protocol):
    """Figures over all batches of an evaluation, of one process."""

    def update(self, outputs: Any) -> None:
        """Take in what `Task.predict` gave for one batch."""
        ...

    def scores(self) -> dict[str, float]:
        """The figures by name."""
        ...


class Meter(Scored, Protocol):
    """Figures that are worked out from sums over images."""

    def sums(self) -> Tensor:
        """What the figures are worked out from, as sums over images, float64 (n)."""
        ...

    def take_sums(self, sums: Tensor) -> None:
        """Stand for the images of all processes, whose sums were added up."""
        ...


@runtime_checkable
class GatheredMeter(Scored, Protocol):
    """Figures that are no sums: what each process saw goes to all of them."""

    def state(self) -> Any:
        """What this process saw, to be pickled."""
        ...

    def merge(self, states: Sequence[Any]) -> None:
        """Stand for the images of all processes, given every one's state, its own among them."""
        ...


class Task(Protocol):
    """Loss and figures; the loop never looks into a batch itself.

    Attributes:
        best_score: name of the figure that decides which checkpoint is best; larger is better.
    """

    best_score: str

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The scalar to minimise."""
        ...

    def predict(self, model: nn.Module, batch: Batch) -> Any:
        """What the meter takes in."""
        ...

    def count(self, batch: Batch) -> int:
        """Images in the batch."""
        ...

    def names(self, batch: Batch) -> list[str]:
        """What a person calls the images of the batch, such as their files."""
        ...

    def meter(self) -> Meter | GatheredMeter:
        """A fresh meter."""
        ...
