"""Holding out a share of every class."""

import random
from collections import defaultdict
from collections.abc import Sequence

from foveal.errors import FovealError


def stratified_split(
    labels: Sequence[int], fraction: float, seed: int = 0
) -> tuple[list[int], list[int]]:
    """Indices to train on and indices held out, both rising.

    Every class gives `fraction` of its samples, rounded, and at least one where it has two. The
    choice within a class depends on the seed and that class alone.

    Args:
        labels: class of each sample.
        fraction: share that is held out, in (0, 1).
        seed: of the choice.

    Raises:
        FovealError: the fraction is out of range.
    """
    if not 0 < fraction < 1:
        raise FovealError(f"The held-out share lies between 0 and 1, got {fraction}.")
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    held: set[int] = set()
    for label, indices in members.items():
        count = min(max(1, round(len(indices) * fraction)), len(indices) - 1)
        held.update(random.Random(f"{seed}/{label}").sample(indices, count))
    return [i for i in range(len(labels)) if i not in held], sorted(held)
