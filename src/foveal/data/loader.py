"""Batches whose order depends on seed and epoch alone, and that can be gone on with anywhere."""

import logging
import signal
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from foveal.data.dataset import SeededDataset
from foveal.data.images import BadImage
from foveal.data.sharding import Share, rank_batches, share
from foveal.data.stream import BatchStream, StreamDataset
from foveal.errors import FovealError, MissingExtraError

_logger = logging.getLogger("foveal")

Collate = Callable[[list[Any]], Any]


class TrainLoader(ABC):
    """Shuffled batches of one rank; every rank has as many, and no sample comes twice an epoch.

    The state is the same on every rank: one file of it serves all. The batches are the rank's
    own already: hand the loader to nothing that shares batches out, and move them to the device.
    """

    def __init__(self, dataset: SeededDataset[Any] | StreamDataset, share: Share, seed: int):
        self.dataset = dataset
        self.share = share
        self.seed = seed
        self.epoch = 0
        self._start = 0
        self._done = 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return self.share.batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that comes next; the one that a loaded state is in, it goes on with."""
        if epoch != self.epoch:
            self._start = self._done = 0
        self.epoch = epoch
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start, self._start = self._start, 0
        self._done = start
        for batch in self._batches(start):
            self._done += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Epoch, batches handed out in it, and what must not change in between; plain values."""
        return {"epoch": self.epoch, "batch": self._done, "fixed": self._fixed()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last batch that was handed out before `state_dict` was called.

        Raises:
            FovealError: data, batch size, number of ranks or seed are others than then.
        """
        for name, now in self._fixed().items():
            before = state["fixed"].get(name)
            if before != now:
                raise FovealError(
                    f"The run was stopped with a {name} of {before}, not {now}; go on with the "
                    "same, or begin a new run."
                )
        self.set_epoch(state["epoch"])
        self._start = self._done = state["batch"]

    def _fixed(self) -> dict[str, int]:
        return {
            "number of training images": len(self.dataset),
            "batch size": self.share.batch_size,
            "number of processes": self.share.world,
            "seed": self.seed,
        }

    @abstractmethod
    def _batches(self, start: int) -> Iterator[dict[str, Any]]:
        """The epoch's batches from `start` on."""


class MapLoader(TrainLoader):
    """Batches of a dataset that can be asked for any sample; workers may change on the way."""

    def __init__(
        self,
        dataset: SeededDataset[Any],
        share: Share,
        seed: int,
        workers: int,
        collate_fn: Collate | None = None,
    ):
        super().__init__(dataset, share, seed)
        self.images = dataset
        self.workers = workers
        self.collate_fn = collate_fn

    def _batches(self, start: int) -> Iterator[dict[str, Any]]:
        batches = rank_batches(len(self.images), self.share, self.seed, self.epoch)
        yield from DataLoader(
            self.images,
            batch_sampler=batches[start:],
            num_workers=self.workers,
            collate_fn=self.collate_fn,
            worker_init_fn=outlive_signals,
            pin_memory=torch.cuda.is_available(),
        )


class StreamLoader(TrainLoader):
    """Batches of a stream. Unreadable images that are to be skipped make a batch smaller.

    Attributes:
        skipped: unreadable images so far, each named on standard error once.
    """

    def __init__(self, dataset: StreamDataset, share: Share, seed: int, workers: int):
        super().__init__(dataset, share, seed)
        try:
            from torchdata.stateful_dataloader import StatefulDataLoader
        except ImportError as error:
            raise MissingExtraError("torchdata", "train") from error
        self.workers = workers
        self.skipped: list[BadImage] = []
        with warnings.catch_warnings():
            # Of a call inside torchdata, which nobody here can change.
            warnings.filterwarnings("ignore", message="'set_vital' is deprecated")
            self._loader: Any = StatefulDataLoader(
                BatchStream(dataset, share, seed),
                batch_size=None,
                num_workers=workers,
                worker_init_fn=outlive_signals,
                collate_fn=_as_it_is,
                pin_memory=torch.cuda.is_available(),
            )
        self._loaded: Mapping[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """As every loader's, with how far each worker is."""
        state = super().state_dict()
        if not self._done:
            return state
        # A loaded state that was not iterated yet is handed on as it came.
        return {**state, "workers": dict(self._loaded) or self._loader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As every loader's."""
        super().load_state_dict(state)
        self._loaded = state["workers"] if state["batch"] else {}

    def _batches(self, start: int) -> Iterator[dict[str, Any]]:
        loaded, self._loaded = self._loaded, {}
        if start == len(self):
            return
        self._loader.load_state_dict(dict(loaded) if start else {})
        for batch, bad in self._loader:
            self._name(bad)
            yield batch

    def _name(self, bad: list[BadImage]) -> None:
        known = {image.path for image in self.skipped}
        for image in bad:
            if image.path not in known:
                self.skipped.append(image)
                _logger.warning("Left out an image that cannot be read: %s", image)

    def _fixed(self) -> dict[str, int]:
        return {**super()._fixed(), "number of workers": self.workers}


def train_loader(
    dataset: SeededDataset[Any] | StreamDataset,
    *,
    batch_size: int,
    workers: int = 0,
    collate_fn: Collate | None = None,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
) -> TrainLoader:
    """Shuffled batches of one rank, every rank as many.

    Samples at the end of an epoch's order that fill no batch on every rank are left out, other
    ones in other epochs; if there is less than a batch a rank, batches are smaller.

    Args:
        dataset: a collection's `train_dataset`.
        batch_size: samples a batch and rank.
        workers: processes that load images, on each rank.
        collate_fn: makes a batch of samples; None to stack them. Streams stack theirs.
        seed: of the order.
        rank: this process, in [0, world).
        world: number of processes that train together.

    Raises:
        FovealError: there are fewer samples than ranks, or no such rank.
    """
    part = share(len(dataset), batch_size, rank, world)
    if isinstance(dataset, StreamDataset):
        return StreamLoader(dataset, part, seed, workers)
    return MapLoader(dataset, part, seed, workers, collate_fn)


def eval_loader(
    dataset: SeededDataset[Any],
    *,
    batch_size: int,
    workers: int = 0,
    collate_fn: Collate | None = None,
    rank: int = 0,
    world: int = 1,
) -> DataLoader[Any]:
    """Every sample once over all ranks, in order; ranks may differ by one sample.

    Args:
        dataset: what to judge by.
        batch_size: samples a batch and rank.
        workers: processes that load images, on each rank.
        collate_fn: makes a batch of samples; None to stack them.
        rank: this process, in [0, world). More than one: hand the loader to nothing that shares
            batches out again.
        world: number of processes.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(rank, len(dataset), world),
        num_workers=workers,
        collate_fn=collate_fn,
        worker_init_fn=outlive_signals,
    )


def outlive_signals(worker: int) -> None:
    """Keep a worker alive while the process that it serves saves the run, or is being stopped.

    Schedulers send SIGTERM to all processes of a job, terminals SIGINT for Ctrl-C. A worker ends
    when its parent does.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch
