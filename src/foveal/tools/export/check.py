"""Running an exported file at several sizes, beside the network it was made of."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from foveal.tools.export.subject import Run, Subject

# Of the largest output.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class SizeCheck:
    """One size.

    Attributes:
        shape: of the image, (b, c, h, w).
        error: largest difference of any output, over the largest absolute one of the network.
    """

    shape: tuple[int, ...]
    error: float

    @property
    def is_equal(self) -> bool:
        """Whether the difference is rounding."""
        return self.error <= TOLERANCE


def sizes_to_check(subject: Subject) -> list[tuple[int, int, int]]:
    """Batch, height and width: as traced, and if any goes rectangular, smaller and larger ones."""
    options = subject.options
    height, width = options.image_size
    traced = (options.batch_size, height, width)
    if not options.dynamic:
        return [traced]

    def near(side: int, factor: float) -> int:
        return max(int(side * factor), options.smallest)

    return [
        traced,
        (1, near(height, 0.75), near(width, 1.3)),
        (1, near(height, 0.45), near(width, 0.45)),
        (3, near(height, 1.4), near(width, 1.4)),
    ]


def check_sizes(
    subject: Subject, run: Run, on_done: Callable[[], None] = lambda: None
) -> tuple[SizeCheck, ...]:
    """How far an exported file is from the network at each of `sizes_to_check`."""
    checks = []
    for batch, height, width in sizes_to_check(subject):
        image = subject.image(batch, height, width)
        with torch.inference_mode():
            expected = [output.cpu().numpy() for output in subject.module(image)]
        # A graph of its own may not take tensors of inference mode.
        outputs = run(image.cpu())
        checks.append(SizeCheck(tuple(image.shape), _error(outputs, expected)))
        on_done()
    return tuple(checks)


def _error(outputs: object, expected: list[np.ndarray]) -> float:
    """Infinite where shapes or numbers do not even compare."""
    assert isinstance(outputs, (list, tuple))
    worst = 0.0
    if len(outputs) != len(expected):
        return float("inf")
    for output, wanted in zip(outputs, expected, strict=True):
        if output.shape != wanted.shape or not np.isfinite(output).all():
            return float("inf")
        difference = np.abs(output.astype(np.float64) - wanted).max()
        worst = max(worst, float(difference / max(np.abs(wanted).max(), 1e-12)))
    return worst
