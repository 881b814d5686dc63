"""What all readings have in common: made of a mixer and its input, holding NumPy arrays."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from foveal.tools.explain.attention import QueryAttention


class Reading(ABC):
    """What one mixer computed for a batch of images; arrays are NumPy, float32 or better."""

    # In the words of its paper.
    kind: str

    @classmethod
    @abstractmethod
    def of(cls, mixer: Any, x: Float[Tensor, "b c h w"]) -> Self:
        """The reading of a mixer at its input."""


class AttentionReading(Reading):
    """A reading with attention that can be asked query by query."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Rows and columns of the map of queries."""

    @abstractmethod
    def attention_of(self, y: int, x: int, image: int = 0) -> QueryAttention:
        """Where the query in row `y` and column `x` of the map looks.

        Args:
            y, x: cell of the map, from 0; negative ones count from the end.
            image: of the batch.

        Raises:
            IndexError: the cell is not on the map.
        """

    def cell(self, y: int, x: int) -> tuple[int, int]:
        """The cell that a row and a column stand for; IndexError where there is none."""
        h, w = self.size
        if not (-h <= y < h and -w <= x < w):
            raise IndexError(f"The map has {h} rows and {w} columns, got row {y}, column {x}.")
        return y % h, x % w


@dataclass(frozen=True, eq=False)
class OtherReading(Reading):
    """The reading of a mixer that is not one of this library's.

    Attributes:
        arrays: what its own `readings` returned.
        name: of its class.
    """

    arrays: Mapping[str, np.ndarray]
    name: str
    kind = "other"

    @classmethod
    def of(cls, mixer: nn.Module, x: Float[Tensor, "b c h w"]) -> Self:
        """Whatever `mixer.readings(x)` returns, a mapping from names to tensors."""
        return cls(arrays_of(mixer, x), type(mixer).__name__)


def arrays_of(mixer: Any, x: Tensor) -> dict[str, np.ndarray]:
    """`mixer.readings(x)` as NumPy arrays."""
    return {name: to_numpy(value) for name, value in mixer.readings(x).items()}


def to_numpy(value: Tensor) -> np.ndarray:
    """A tensor as a NumPy array of its own; half precision, which NumPy lacks in part, widened."""
    value = value.detach()
    wide = value.float() if value.is_floating_point() and value.element_size() < 4 else value
    return wide.cpu().numpy().copy()
