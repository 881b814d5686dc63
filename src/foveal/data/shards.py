"""Large files that hold many images each: Hugging Face parquet and WebDataset tars."""

import glob
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from foveal.data.images import EncodedImage, Source
from foveal.data.labels import RawLabel
from foveal.errors import FovealError, MissingExtraError

ShardKind = Literal["parquet", "webdataset"]

SUFFIXES: dict[ShardKind, str] = {"parquet": ".parquet", "webdataset": ".tar"}

# What tarfile, Arrow and `datasets` raise on damaged files; the last adds its own.
_READ_ERRORS = (OSError, ValueError, RuntimeError, EOFError, tarfile.TarError)

_PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Shard:
    """One large file.

    Attributes:
        path: of the file.
        labels: of its samples, in order, as they are written there.
        keys: what each sample is called; None where it is its row's number.
    """

    path: Path
    labels: Sequence[RawLabel]
    keys: Sequence[str] | None = None

    def names(self) -> list[str]:
        """What a person calls each sample."""
        if self.keys is None:
            return [f"{self.path}/row {number}" for number in range(len(self.labels))]
        return [f"{self.path}/{key}" for key in self.keys]


@dataclass(frozen=True)
class ShardReader:
    """Reads the images of some large files through `datasets`, without a copy.

    Attributes:
        kind: format of the files.
        files: in order.
        columns: that may hold a sample's image; the first that does is taken.
    """

    kind: ShardKind
    files: tuple[Path, ...]
    columns: tuple[str, ...]

    def load(self, *, streaming: bool) -> Any:
        """The images as a `datasets` collection, undecoded; its Arrow cache unless streaming."""
        datasets = require_datasets()
        options: dict[str, Any] = {"columns": list(self.columns)}
        if self.kind == "webdataset":
            fields = {name: datasets.Image(decode=False) for name in self.columns}
            fields["__key__"] = datasets.Value("string")
            options = {"features": datasets.Features(fields)}
        # `datasets` takes names for patterns, in which [ and * have a meaning.
        files = {"train": [glob.escape(str(path)) for path in self.files]}
        with readable(f"{self.files[0]} and the files with it"), _uncounted(datasets):
            loaded = datasets.load_dataset(
                self.kind, data_files=files, split="train", streaming=streaming, **options
            )
        return undecoded(loaded, self.columns)

    def read(self, shard: int, start: int, stop: int) -> Iterator[Source]:
        """The images `start` to `stop` of one file, in order.

        Raises:
            FovealError: the file has fewer, or cannot be read.
        """
        path, count = self.files[shard], start
        stream = _opened(self).shard(num_shards=len(self.files), index=shard)
        # Iterating by batches, unlike one by one, leaves sharing among workers to the caller.
        batches = stream.skip(start).iter(batch_size=16)
        rows = (_row(batch, i) for batch in batches for i in range(_length(batch)))
        with readable(path):
            for row in islice(rows, stop - start):
                key = row.get("__key__", f"row {count}")
                yield image_of(row, self.columns, f"{path}/{key}")
                count += 1
        if count < stop:
            raise FovealError(
                f"{path} ended after {count} samples, and had {stop} or more when the run began; "
                "leave the files as they are while they are read."
            )


@lru_cache(maxsize=4)
def _opened(reader: ShardReader) -> Any:
    """The stream of a reader's files, made once a process."""
    return reader.load(streaming=True)


@contextmanager
def _uncounted(datasets: Any) -> Iterator[None]:
    """Keeps `datasets` from telling its maker over the network that files are loaded."""
    before = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = before


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turns what goes wrong in a large file into one sentence that names it."""
    try:
        yield
    except FovealError:
        raise
    except (*_READ_ERRORS, require_datasets().exceptions.DatasetsError) as error:
        if isinstance(error.__cause__, FovealError):
            raise error.__cause__ from error
        reason = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        raise FovealError(f"Cannot read {path}: {reason}; repair it or take it away.") from error


def find_shards(root: Path, kind: ShardKind) -> dict[str, list[Path]]:
    """Files by the part they are of, "train", "val" or "test", as file or folder names tell it.

    Raises:
        FovealError: none, or some name their part and others do not.
    """
    files = sorted(root.rglob(f"*{SUFFIXES[kind]}")) if root.is_dir() else [root]
    files = [path for path in files if path.is_file() and not path.name.startswith(".")]
    if not files:
        raise FovealError(f"{root} has no {SUFFIXES[kind]} files; give a folder that has some.")
    parts: dict[str, list[Path]] = {}
    for path in files:
        parts.setdefault(_part(path, root), []).append(path)
    unnamed = parts.pop("", [])
    if unnamed and parts:
        named = next(iter(parts.values()))[0]
        raise FovealError(
            f"{named} names its part and {unnamed[0]} does not; put train, val or test into the "
            "name of every file, or of none."
        )
    parts.setdefault("train", unnamed)
    if not parts["train"]:
        raise FovealError(f"{root} has no {SUFFIXES[kind]} files of train; add some.")
    return parts


def image_of(row: dict[str, Any], columns: Sequence[str], name: str) -> Source:
    """The undecoded image of a row; one without is empty, which reading it then reports."""
    for column in columns:
        value = row[column]
        data = value.get("bytes") if isinstance(value, dict) else value
        if data is not None:
            return EncodedImage(name, data)
        if isinstance(value, dict) and value.get("path"):
            return Path(value["path"])
    return EncodedImage(name, b"")


def undecoded(dataset: Any, columns: Sequence[str]) -> Any:
    """`dataset` with its image columns as bytes."""
    datasets = require_datasets()
    for column in columns:
        if isinstance(dataset.features[column], datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return dataset


def require_datasets() -> Any:
    """The `datasets` package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "train") from error
    return datasets


def _part(path: Path, root: Path) -> str:
    """The part that the file's own name tells, or else the innermost folder that tells one."""
    inside = path.relative_to(root) if root.is_dir() else Path(path.name)
    for name in reversed(inside.parts):
        for word in re.split(r"[^a-z]+", name.lower()):
            if word in _PARTS:
                return _PARTS[word]
    return ""


def _row(batch: dict[str, list[Any]], place: int) -> dict[str, Any]:
    return {name: values[place] for name, values in batch.items()}


def _length(batch: dict[str, list[Any]]) -> int:
    return len(next(iter(batch.values())))
