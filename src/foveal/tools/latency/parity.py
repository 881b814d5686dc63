"""Agreement first, then time: whether two ways to compute something come to the same."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foveal.errors import FovealError

# Differences of outputs over their norm.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}


class ParityError(FovealError):
    """What was to be compared does not compute the same."""


def disagreement(output: Tensor | Sequence[Tensor], reference: Tensor | Sequence[Tensor]) -> float:
    """‖output − reference‖ / ‖reference‖, the worst of several tensors."""
    if isinstance(output, Tensor) and isinstance(reference, Tensor):
        difference = (output.detach().double() - reference.detach().double()).norm()
        return (difference / reference.detach().double().norm().clamp(min=1e-30)).item()
    return max(disagreement(a, b) for a, b in zip(output, reference, strict=True))


def require_agreement(error: float, name: str, reference: str, tolerance: float) -> None:
    """Let no time be taken of what does not agree.

    Raises:
        ParityError: `error`, a `disagreement`, is more than `tolerance`, or no number.
    """
    # A NaN is not within any tolerance either.
    if not error <= tolerance:
        raise ParityError(
            f"{name} and {reference} differ by {error:.1e} of the norm, {tolerance:.0e} is "
            "allowed: they do not compute the same, so their times say nothing."
        )
