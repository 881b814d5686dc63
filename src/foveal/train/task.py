"""What the loop asks of a task."""

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

Batch = Mapping[str, Any]


class Meter(Protocol):
    """Figures over all batches of an evaluation."""

    def update(self, outputs: tuple[Tensor, ...]) -> None:
        """Take in what `Task.predict` gave for one batch."""
        ...

    def sums(self) -> Tensor:
        """What the figures are worked out from, as sums over images, float64 (n)."""
        ...

    def take_sums(self, sums: Tensor) -> None:
        """Stand for the images of all processes, whose sums were added up."""
        ...

    def scores(self) -> dict[str, float]:
        """The figures by name."""
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

    def predict(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Tensors with a row an image, for the meter."""
        ...

    def count(self, batch: Batch) -> int:
        """Images in the batch."""
        ...

    def names(self, batch: Batch) -> list[str]:
        """What a person calls the images of the batch, such as their files."""
        ...

    def meter(self) -> Meter:
        """A fresh meter."""
        ...
