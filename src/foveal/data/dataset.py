"""Labelled images as a PyTorch dataset whose random transforms depend on seed, epoch and index."""

import random
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypedDict, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from foveal.data.images import BadImage, Source, read_image
from foveal.data.sources import Chosen, Joined


@dataclass(frozen=True)
class Samples:
    """Images with labels, aligned.

    Attributes:
        sources: files, images in memory, or images inside larger files, read when asked for.
        labels: class index of each.
        names: what a person calls each: its path, or its place in a collection.
    """

    sources: Sequence[Source]
    labels: Sequence[int]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.sources)

    def read(self, index: int, mode: str = "RGB") -> Image.Image:
        """The image at `index`, upright and in `mode`.

        Raises:
            ImageError: it cannot be decoded.
        """
        return read_image(self.sources[index], mode)

    def take(self, indices: Sequence[int]) -> "Samples":
        """The samples at `indices`, in that order."""
        return Samples(
            Chosen(self.sources, indices),
            [self.labels[i] for i in indices],
            [self.names[i] for i in indices],
        )

    def join(self, other: "Samples") -> "Samples":
        """These samples, then `other`'s."""
        return Samples(
            Joined(self.sources, other.sources),
            [*self.labels, *other.labels],
            [*self.names, *other.names],
        )


@dataclass(frozen=True)
class LabelledImages:
    """A collection to train on and to judge by.

    Attributes:
        classes: names, by class index.
        train: what is trained on.
        val: what is held out.
        skipped: images that could not be read and were left out.
        ignored: how many files that hold no images were passed over.
        found: what the collection was taken for, in words.
        named_val: whether the collection itself says what to judge by.
    """

    classes: tuple[str, ...]
    train: Samples
    val: Samples
    skipped: tuple[BadImage, ...] = ()
    ignored: int = 0
    found: str = "a folder of class folders"
    named_val: bool = True

    def train_dataset(
        self, transform: Callable[[Image.Image], Tensor], *, mode: str = "RGB", seed: int = 0
    ) -> "ImageDataset":
        """The training images, for `train_loader`."""
        return ImageDataset(self.train, transform, mode=mode, seed=seed)


class Sample(TypedDict):
    """One item, or once collated a batch: image (C, H, W), class index, position in the data."""

    image: Tensor
    label: int
    index: int


Item = TypeVar("Item")


class SeededDataset(Dataset[Item]):
    """Samples by index whose random transforms `seeded(seed, epoch, index)` makes repeatable.

    Args:
        seed: of the transforms.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw other random transforms than in other epochs."""
        self.epoch = epoch

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""


class ImageDataset(SeededDataset[Sample]):
    """Transformed images, the same ones for the same seed, epoch and index in any worker."""

    def __init__(
        self,
        samples: Samples,
        transform: Callable[[Image.Image], Tensor],
        *,
        mode: str = "RGB",
        seed: int = 0,
    ):
        super().__init__(seed)
        self.samples = samples
        self.transform = transform
        self.mode = mode

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        image = self.samples.read(index, self.mode)
        with seeded(self.seed, self.epoch, index):
            tensor = self.transform(image)
        return {"image": tensor, "label": self.samples.labels[index], "index": index}


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Random numbers that depend on `key` alone inside; the generators outside are untouched."""
    seed = np.random.SeedSequence([abs(part) for part in key]).generate_state(1)[0].item()
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        # Not torch.manual_seed, which would also reseed every accelerator.
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
