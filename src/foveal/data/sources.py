"""Images by number that are read when asked for, and the files that a folder shows."""

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from foveal.data.images import Source


class Sources(Sequence[Source]):
    """Images by number, of which subclasses read one; a slice reads none."""

    @overload
    def __getitem__(self, index: int) -> Source: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Source]: ...
    def __getitem__(self, index: int | slice) -> Source | Sequence[Source]:
        place = range(len(self))[index]
        return Chosen(self, place) if isinstance(place, range) else self._read(place)

    @abstractmethod
    def _read(self, index: int) -> Source:
        """The image with this number, from 0 up."""


class Chosen(Sources):
    """Some of `sources`, in the order of `indices`."""

    def __init__(self, sources: Sequence[Source], indices: Sequence[int]):
        self.sources = sources
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def _read(self, index: int) -> Source:
        return self.sources[self.indices[index]]


class Joined(Sources):
    """`first`, then `second`."""

    def __init__(self, first: Sequence[Source], second: Sequence[Source]):
        self.first = first
        self.second = second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def _read(self, index: int) -> Source:
        split = len(self.first)
        return self.first[index] if index < split else self.second[index - split]


def visible_files(root: Path) -> Iterator[Path]:
    """Every file under `root` at any depth that is not hidden, nor in a hidden folder."""
    for parent, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(files) if not name.startswith("."))
