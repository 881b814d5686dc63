"""Training images read from large files one after another, shuffled on the way."""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, count, islice, pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset, default_collate, get_worker_info

from foveal.data.dataset import Sample, Samples, seeded
from foveal.data.images import BadImage, EncodedImage, ImageError, Source, read_image
from foveal.data.labels import encode_labels, require_trained
from foveal.data.scan import Scan
from foveal.data.screening import OnBadImage, screen
from foveal.data.sharding import Share, pieces, rng
from foveal.data.shards import ShardKind, ShardReader, readable, require_datasets
from foveal.data.split import stratified_split
from foveal.data.table import ArrowImages, shard_samples


@dataclass(frozen=True)
class Stream:
    """The training images of some large files, those held out passed over.

    Attributes:
        reader: of the files.
        sizes: samples of each file, held out ones too.
        positions: of the training images among all samples, rising.
        labels: class index of each training image.
        on_bad_image: "refuse" to raise at an unreadable image, "skip" to name it and go on.
    """

    reader: ShardReader
    sizes: tuple[int, ...]
    positions: Sequence[int]
    labels: Sequence[int]
    on_bad_image: OnBadImage = "refuse"

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def bounds(self) -> list[int]:
        """The training image that each file begins with, and their number."""
        return [bisect_left(self.positions, end) for end in (0, *accumulate(self.sizes))]

    def read(self, file: int, first: int, last: int) -> Iterator[tuple[int, Source]]:
        """Training images `first` to `last` of one file, counted from its first, with numbers."""
        begin = self.bounds[file]
        wanted = self.positions[begin + first : begin + last]
        yield from zip(
            range(begin + first, begin + last),
            _read_positions(self.reader, file, sum(self.sizes[:file]), wanted),
            strict=True,
        )


@dataclass(frozen=True)
class StreamedImages:
    """A collection to train on as a stream, and to judge by.

    Attributes:
        classes: names, by class index.
        train: what is trained on; its length and labels are known.
        val: what is held out, map-style.
        skipped: images of `val` that could not be read and were left out.
        ignored: how many files that hold no images were passed over.
        found: what the collection was taken for, in words.
    """

    classes: tuple[str, ...]
    train: Stream
    val: Samples
    skipped: tuple[BadImage, ...] = ()
    ignored: int = 0
    found: str = ""

    def train_dataset(
        self,
        transform: Callable[[Image.Image], Tensor],
        *,
        mode: str = "RGB",
        seed: int = 0,
        buffer_size: int = 512,
    ) -> "StreamDataset":
        """The training images, for `train_loader`."""
        return StreamDataset(self.train, transform, mode=mode, seed=seed, buffer_size=buffer_size)


class StreamDataset:
    """A stream with transforms, the same images for the same seed, epoch and index.

    Args:
        stream: where the images come from.
        transform: from an image to a tensor.
        mode: PIL's mode.
        seed: of the random transforms.
        buffer_size: encoded images that each worker holds and shuffles, from 1 up.
    """

    def __init__(
        self,
        stream: Stream,
        transform: Callable[[Image.Image], Tensor],
        *,
        mode: str = "RGB",
        seed: int = 0,
        buffer_size: int = 512,
    ):
        self.stream = stream
        self.transform = transform
        self.mode = mode
        self.seed = seed
        self.buffer_size = buffer_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Draw other random transforms than in other epochs."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.stream)

    def load(self, index: int, source: Source) -> Sample:
        """The sample of an image that was read.

        Raises:
            ImageError: it cannot be decoded.
        """
        image = read_image(source, self.mode)
        with seeded(self.seed, self.epoch, index):
            tensor = self.transform(image)
        return {"image": tensor, "label": self.stream.labels[index], "index": index}


Loaded = tuple[dict[str, Any], list[BadImage]]


class BatchStream(IterableDataset[Loaded]):
    """One worker's batches, each with the unreadable images that were left out of it.

    What comes depends on seed, epoch, rank and worker alone, so that the number of batches handed
    out is all there is to know for going on: the buffer is filled again and shuffled the same.
    """

    def __init__(self, dataset: StreamDataset, share: Share, seed: int):
        self.dataset = dataset
        self.share = share
        self.seed = seed
        self.done = 0
        self._start = 0

    def state_dict(self) -> dict[str, int]:
        """How many batches this worker has made in the epoch."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin after the batches of `state_dict` when next iterated."""
        self._start = state["done"]

    def __iter__(self) -> Iterator[Loaded]:
        self.done, self._start = self._start, 0
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        start, stop = self.share.worker_span(worker, workers)
        batch: list[tuple[int, Source]] = []
        for item in self._shuffled(start, stop, self.done * self.share.batch_size, worker):
            batch.append(item)
            if len(batch) == self.share.batch_size:
                loaded = self._load(batch)
                # Before the batch is handed out: the state is asked for right after.
                self.done += 1
                yield loaded
                batch = []

    def _shuffled(
        self, start: int, stop: int, skip: int, worker: int
    ) -> Iterator[tuple[int, Source]]:
        """Samples `start` to `stop` but for the first `skip`, in blocks that are shuffled whole."""
        size, epoch = self.dataset.buffer_size, self.dataset.epoch
        begun, used = divmod(skip, size)
        # Read on from block to block: to begin anew means to pass over what lies before.
        source = self._in_order(start + begun * size, stop)
        for block in count(begun):
            items = list(islice(source, size))
            if not items:
                return
            order = rng(self.seed, epoch, self.share.rank, worker, block).permutation(len(items))
            for place in order[used:].tolist():
                yield items[place]
            used = 0

    def _in_order(self, start: int, stop: int) -> Iterator[tuple[int, Source]]:
        stream, epoch = self.dataset.stream, self.dataset.epoch
        sizes = [end - begin for begin, end in pairwise(stream.bounds)]
        for file, first, last in pieces(sizes, start, stop, self.seed, epoch):
            yield from stream.read(file, first, last)

    def _load(self, batch: Sequence[tuple[int, Source]]) -> Loaded:
        samples: list[Sample] = []
        bad: list[BadImage] = []
        for index, source in batch:
            try:
                samples.append(self.dataset.load(index, source))
            except ImageError as error:
                if self.dataset.stream.on_bad_image == "refuse":
                    raise
                name = source.name if isinstance(source, EncodedImage) else str(source)
                bad.append(BadImage(Path(name), error.reason))
        if not samples:
            raise ImageError(
                f"None of the {len(batch)} images of a batch can be read, {bad[0].path} for one; "
                "repair the files."
            )
        return default_collate(samples), bad


def read_stream(
    kind: ShardKind,
    scan: Scan,
    parts: dict[str, list[Path]],
    *,
    held_out: float,
    seed: int,
    on_bad_image: OnBadImage,
) -> StreamedImages:
    """The images of large files as a stream; those to judge by are copied to `datasets`' cache.

    Args:
        kind: format of the files.
        scan: what they hold, those of `train` before those of `val`.
        parts: the files of each part.
        held_out: share of every class to judge by, where there is no `val`.
        seed: of that choice, the same as when the files are read map-style.
        on_bad_image: "refuse" or "skip"; training images are not looked at beforehand.

    Raises:
        FovealError: labels that are no classes, or unreadable images to judge by.
    """
    labels = [label for shard in scan.shards for label in shard.labels]
    classes, indices = encode_labels(labels, scan.names, str(scan.shards[0].path))
    held_files = set(parts.get("val", ()))
    shards = [shard for shard in scan.shards if shard.path not in held_files]
    sizes = tuple(len(shard.labels) for shard in shards)
    split = sum(sizes)
    reader = ShardReader(kind, tuple(shard.path for shard in shards), scan.columns)
    if held_files:
        kept: Sequence[int] = range(split)
        val_shards = [shard for shard in scan.shards if shard.path in held_files]
        val = shard_samples(kind, val_shards, scan.columns, indices[split:])
        require_trained(indices[:split], val.labels, classes)
    else:
        kept, held = stratified_split(indices, held_out, seed)
        names = [name for shard in shards for name in shard.names()]
        val = _held_samples(reader, sizes, held, [indices[i] for i in held], names)
    good, bad = screen(val, on_bad_image)
    # Arrays, not lists: workers share their memory for as long as nobody counts references in it.
    stream = Stream(
        reader, sizes, array("q", kept), array("q", (indices[i] for i in kept)), on_bad_image
    )
    return StreamedImages(classes, stream, good, tuple(bad))


def _held_samples(
    reader: ShardReader,
    sizes: Sequence[int],
    held: Sequence[int],
    labels: Sequence[int],
    names: Sequence[str],
) -> Samples:
    """Some samples of large files, copied out of them in one pass."""
    datasets = require_datasets()
    # The times tell a file from another that has taken its place since the copy was made.
    stamps = tuple(path.stat().st_mtime_ns for path in reader.files)
    with readable(f"{reader.files[0]} and the files with it"):
        table = datasets.Dataset.from_generator(
            _held_images,
            features=datasets.Features({"image": datasets.Image(decode=False)}),
            gen_kwargs={"reader": reader, "sizes": sizes, "held": tuple(held), "stamps": stamps},
        )
    chosen = [names[i] for i in held]
    return Samples(ArrowImages(table, ["image"], chosen), labels, chosen)


def _held_images(
    reader: ShardReader, sizes: Sequence[int], held: Sequence[int], stamps: Sequence[int]
) -> Iterator[dict[str, Any]]:
    offset = 0
    for file, size in enumerate(sizes):
        wanted = held[bisect_left(held, offset) : bisect_left(held, offset + size)]
        for source in _read_positions(reader, file, offset, wanted):
            data = source.data if isinstance(source, EncodedImage) else None
            yield {"image": {"bytes": data, "path": None if data is not None else str(source)}}
        offset += size


def _read_positions(
    reader: ShardReader, file: int, offset: int, wanted: Sequence[int]
) -> Iterator[Source]:
    """The samples at `wanted`, rising and counted from the first file's first, of one file."""
    if not wanted:
        return
    first, last = wanted[0] - offset, wanted[-1] - offset + 1
    left = iter(wanted)
    following = next(left, None)
    for position, source in enumerate(reader.read(file, first, last), start=wanted[0]):
        if position == following:
            following = next(left, None)
            yield source
