"""Which sample goes where: orders and shares that depend on seed and epoch alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foveal.errors import FovealError


@dataclass(frozen=True)
class Share:
    """What one rank gets in an epoch: as many full batches as every other.

    Attributes:
        batches: number of them.
        batch_size: samples in each.
        rank: this rank, in [0, world).
        world: number of ranks.
    """

    batches: int
    batch_size: int
    rank: int
    world: int

    def worker_span(self, worker: int, workers: int) -> tuple[int, int]:
        """First and last-plus-one sample of one worker, counted over all ranks.

        Worker 0 has the most batches: taking a batch of each in turn uses up all of them.
        """
        each, more = divmod(self.batches, workers)
        first = worker * each + min(worker, more)
        start = self.rank * self.batches + first
        stop = start + each + (worker < more)
        return start * self.batch_size, stop * self.batch_size


def share(length: int, batch_size: int, rank: int, world: int) -> Share:
    """The share of `rank` in `length` samples; data of less than a batch a rank make one batch.

    Raises:
        FovealError: there is not a sample for every rank, or no such rank.
    """
    if not 0 <= rank < world or batch_size < 1:
        raise FovealError(
            f"Ranks lie from 0 up to their number and batches hold 1 sample or more, got rank "
            f"{rank} of {world} and batch_size {batch_size}."
        )
    if length < world:
        raise FovealError(
            f"{length} training images are too few for {world} processes; use fewer processes."
        )
    size = min(batch_size, length // world)
    return Share(length // (size * world), size, rank, world)


def shuffled(length: int, seed: int, epoch: int) -> list[int]:
    """Every index once, in an order of its own for each epoch."""
    generator = torch.Generator().manual_seed((seed << 20) + epoch)
    return torch.randperm(length, generator=generator).tolist()


def rank_batches(length: int, share: Share, seed: int, epoch: int) -> list[list[int]]:
    """The batches of one rank: with the others', the batches of one rank alone, cut up.

    The samples at the end of the order that fill no batch on every rank are left out; other
    ones in other epochs.
    """
    order = shuffled(length, seed, epoch)
    starts = range(share.rank * share.batch_size, length, share.batch_size * share.world)
    return [order[start : start + share.batch_size] for start in starts[: share.batches]]


def rng(*key: int) -> np.random.Generator:
    """Random numbers that depend on `key` alone."""
    return np.random.default_rng([abs(part) for part in key])


def pieces(
    sizes: Sequence[int], start: int, stop: int, seed: int, epoch: int
) -> Iterator[tuple[int, int, int]]:
    """Where samples `start` to `stop` of an epoch's order lie: (file, first, last-plus-one).

    The files come in an order of the epoch's own, and the order begins at a place of its own in
    that ring, so that the samples left out at its end differ from epoch to epoch. Inside a file
    samples keep their order.
    """
    draw = rng(seed, epoch)
    files = draw.permutation(len(sizes)).tolist()
    total = sum(sizes)
    turn = int(draw.integers(total))
    for low, high in _unroll(start + turn, stop + turn, total):
        position = 0
        for file in files:
            first, last = max(low - position, 0), min(high - position, sizes[file])
            if first < last:
                yield file, first, last
            position += sizes[file]


def _unroll(start: int, stop: int, total: int) -> list[tuple[int, int]]:
    """A stretch of a ring as stretches of a line."""
    start, stop = start % total, start % total + (stop - start)
    if stop <= total:
        return [(start, stop)]
    return [(start, total), (0, stop - total)]
