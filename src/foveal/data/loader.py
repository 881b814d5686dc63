"""Batches in an order that depends on the seed and the epoch alone."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from foveal.data.dataset import ImageDataset


class ShuffledSampler(Sampler[int]):
    """Every index once, in an order of its own for each epoch."""

    def __init__(self, length: int, seed: int = 0):
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed << 20) + self.epoch)
        yield from torch.randperm(self.length, generator=generator).tolist()


def train_loader(
    dataset: ImageDataset, *, batch_size: int, workers: int = 0, seed: int = 0
) -> DataLoader[Any]:
    """Shuffled batches. A last one that is short is dropped, unless it is the only one."""
    return DataLoader(
        dataset,
        batch_size=min(batch_size, len(dataset)),
        sampler=ShuffledSampler(len(dataset), seed),
        num_workers=workers,
        drop_last=True,
    )


def eval_loader(dataset: ImageDataset, *, batch_size: int, workers: int = 0) -> DataLoader[Any]:
    """Every sample once, in order."""
    return DataLoader(dataset, batch_size=batch_size, num_workers=workers)
