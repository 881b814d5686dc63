"""Images without labels, from a folder tree, parquet files or tars; each is read when asked for."""

import os
import tarfile
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from foveal.data.images import EXTENSIONS, EncodedImage, Source
from foveal.data.sources import Sources, visible_files
from foveal.errors import FovealError, MissingExtraError

IMAGE_COLUMN = "image"


def list_images_of(path: str | os.PathLike[str]) -> Sequence[Source]:
    """Every image under a path, in an order of its own that does not change.

    Args:
        path: an image, a folder with images at any depth, a .parquet or .tar file, or a folder of
            these. Parquet files have a column `image` of bytes, or of {bytes, path} as Hugging
            Face's have; labels are not looked at.

    Raises:
        FovealError: no image is there, or a file is damaged.
    """
    root = Path(path)
    if not root.exists():
        raise FovealError(
            f"{root} does not exist; give an image, a folder, .parquet or .tar files."
        )
    files = [root] if root.is_file() else sorted(visible_files(root))
    parquet = [file for file in files if file.suffix == ".parquet"]
    tars = [file for file in files if file.suffix == ".tar"]
    images: list[Source] = [file for file in files if file.suffix.lower() in EXTENSIONS]
    kinds = [kind for kind in (images, parquet, tars) if kind]
    if not kinds:
        raise FovealError(
            f"{root} holds no image ({', '.join(sorted(EXTENSIONS))}), .parquet or .tar file."
        )
    if len(kinds) > 1:
        raise FovealError(
            f"{root} holds images of several kinds (loose, in .parquet, in .tar files); "
            "give them one at a time."
        )
    if parquet:
        return _ParquetImages(parquet)
    return _TarImages(tars) if tars else images


class _TarImages(Sources):
    """The images in tars, found by their place in the file."""

    def __init__(self, tars: Sequence[Path]):
        self.members = [(tar, *member) for tar in tars for member in _members(tar)]

    def __len__(self) -> int:
        return len(self.members)

    def _read(self, index: int) -> Source:
        tar, name, offset, size = self.members[index]
        with tar.open("rb") as file:
            file.seek(offset)
            return EncodedImage(f"{tar}/{name}", file.read(size))


def _members(tar: Path) -> list[tuple[str, int, int]]:
    """Name, offset and size of every image in a tar."""
    try:
        with tarfile.open(tar, "r:") as archive:
            return [
                (member.name, member.offset_data, member.size)
                for member in archive
                if member.isfile() and Path(member.name).suffix.lower() in EXTENSIONS
            ]
    except tarfile.TarError as error:
        raise FovealError(f"{tar} is not a tar that can be read: {_words(error)}.") from error


class _ParquetImages(Sources):
    """The rows of parquet files; the row group read last is kept, for reading in order."""

    def __init__(self, files: Sequence[Path]):
        self.files = files
        self.groups = [
            (file, group, rows) for file in files for group, rows in enumerate(_row_groups(file))
        ]
        self.starts = [0, *accumulate(rows for *_, rows in self.groups)]
        self._kept: tuple[int, list[Any]] = (-1, [])

    def __len__(self) -> int:
        return self.starts[-1]

    def _read(self, index: int) -> Source:
        number = bisect_right(self.starts, index) - 1
        file, group, _ = self.groups[number]
        if self._kept[0] != number:
            table = _parquet(file).read_row_group(group, columns=[IMAGE_COLUMN])
            self._kept = (number, table[IMAGE_COLUMN].to_pylist())
        value = self._kept[1][index - self.starts[number]]
        data = value["bytes"] if isinstance(value, dict) else value
        first = next(i for i, (other, *_) in enumerate(self.groups) if other == file)
        return EncodedImage(f"{file}#{index - self.starts[first]}", data or b"")


def _row_groups(file: Path) -> list[int]:
    """Rows of each row group."""
    found = _parquet(file)
    if IMAGE_COLUMN not in found.schema_arrow.names:
        raise FovealError(
            f"{file} has no column {IMAGE_COLUMN!r}; it has {', '.join(found.schema_arrow.names)}."
        )
    metadata = found.metadata
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _parquet(file: Path) -> Any:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error
    try:
        return ParquetFile(file)
    except ArrowInvalid as error:
        raise FovealError(
            f"{file} is not a parquet file that can be read: {_words(error)}."
        ) from error


def _words(error: Exception) -> str:
    """What a library complains of, to be put at the end of a sentence."""
    return str(error).strip().rstrip(".")
