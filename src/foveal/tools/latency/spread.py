"""Several measurements of one thing."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, and the tenths and ninetieths of them."""

    median: float
    p10: float
    p90: float
    count: int

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.p10:{spec}}–{self.p90:{spec}})"


def spread(values: Sequence[float]) -> Spread:
    """The median with p10 and p90, between measurements where they fall between."""
    ordered = sorted(values)
    return Spread(
        statistics.median(ordered), _quantile(ordered, 0.1), _quantile(ordered, 0.9), len(ordered)
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])
