"""What large files hold, found without reading their images: labels and the columns of images."""

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from foveal.data.images import EXTENSIONS
from foveal.data.labels import RawLabel
from foveal.data.shards import Shard, readable, require_datasets
from foveal.errors import FovealError

_IMAGE_NAMES = ("image", "img")
_LABEL_NAMES = ("label", "labels", "class", "target")
_CLASS_LIST = "classes.txt"


@dataclass(frozen=True)
class Scan:
    """What some large files hold.

    Attributes:
        shards: one a file.
        columns: that hold images.
        names: of the classes, where the files tell them.
    """

    shards: list[Shard]
    columns: tuple[str, ...]
    names: tuple[str, ...] | None


@dataclass(frozen=True)
class Columns:
    """Where image and label are, and the names of the classes, where they are known."""

    image: str
    label: str
    names: tuple[str, ...] | None


def find_columns(features: Any, where: str | Path) -> Columns:
    """The columns of image and label among a `datasets` collection's features.

    Raises:
        FovealError: there is none, or more than one that could be meant.
    """
    datasets = require_datasets()
    pictures = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    pictures = pictures or [
        name for name in _IMAGE_NAMES if name in features and _holds_bytes(features[name])
    ]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [name for name in _LABEL_NAMES if name in features]
    image = _only(pictures, "image", features, where)
    label = _only(labels, "label", features, where)
    names = getattr(features[label], "names", None)
    return Columns(image, label, tuple(names) if names else None)


def scan_parquet(files: Sequence[Path]) -> Scan:
    """The labels of parquet files; of the images not a byte is read.

    Raises:
        FovealError: a file cannot be read, or has no column of images or of labels.
    """
    datasets = require_datasets()
    from pyarrow import parquet

    shards, columns = [], None
    for path in files:
        with readable(path):
            features = datasets.Features.from_arrow_schema(parquet.read_schema(path))
        found = find_columns(features, path)
        if columns is not None and found != columns:
            raise FovealError(
                f"{path} has its columns or classes otherwise than {files[0]} ({found} and "
                f"{columns}); write all files alike."
            )
        columns = found
        with readable(path):
            labels = parquet.read_table(path, columns=[found.label])[found.label].to_pylist()
        shards.append(Shard(path, labels))
    assert columns is not None
    return Scan(shards, (columns.image,), columns.names)


def scan_tars(files: Sequence[Path], root: Path) -> Scan:
    """The labels of WebDataset tars, from `.cls` (a number), `.txt` (a name) or `.json` (`label`).

    A file classes.txt beside them, one name a line, tells what the numbers mean.

    Raises:
        FovealError: a file cannot be read, or a sample has no label.
    """
    shards: list[Shard] = []
    columns: set[str] = set()
    for path in files:
        labels: list[RawLabel] = []
        keys: list[str] = []
        with readable(path), tarfile.open(path, "r:") as archive:
            for key, fields in _tar_samples(archive):
                labels.append(_tar_label(archive, path, key, fields))
                pictures = [name for name in fields if f".{name.lower()}" in EXTENSIONS]
                if len(pictures) > 1:
                    raise FovealError(
                        f"{path}: the sample {key!r} has several images ({', '.join(pictures)}); "
                        "keep one."
                    )
                columns.update(pictures)
                keys.append(key)
        shards.append(Shard(path, labels, keys))
    if not columns:
        raise FovealError(
            f"{files[0]} has no images ({', '.join(sorted(EXTENSIONS))}) beside its labels; write "
            "each sample as KEY.jpg and KEY.cls."
        )
    return Scan(shards, tuple(sorted(columns)), _class_list(root))


def _tar_samples(
    archive: tarfile.TarFile,
) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Members that follow one another and share all before the first dot, by what is after it."""
    current, fields = "", dict[str, tarfile.TarInfo]()
    for member in archive:
        path = PurePosixPath(member.name)
        matched = re.fullmatch(r"([^.]+)\.(.*)", path.name)
        if not member.isreg() or matched is None or path.name.startswith("__"):
            continue
        folder = member.name[: len(member.name) - len(path.name)]
        key = folder + matched[1]
        if fields and key != current:
            yield current, fields
            fields = {}
        current = key
        fields[matched[2]] = member
    if fields:
        yield current, fields


def _tar_label(
    archive: tarfile.TarFile, path: Path, key: str, fields: dict[str, tarfile.TarInfo]
) -> RawLabel:
    for name in ("cls", "txt", "json"):
        file = archive.extractfile(fields[name]) if name in fields else None
        if file is None:
            continue
        text = file.read().decode("utf-8").strip()
        try:
            if name == "cls":
                return int(text)
            return text if name == "txt" else json.loads(text)["label"]
        except (ValueError, KeyError, TypeError) as error:
            needed = "a whole number (names go into .txt)" if name == "cls" else 'a field "label"'
            raise FovealError(
                f"{path}: {key}.{name} holds {text[:40]!r}, and is to hold {needed}."
            ) from error
    raise FovealError(
        f"{path}: the sample {key!r} has no label among {', '.join(sorted(fields))}; add a file "
        f"{key}.cls with the number of its class, or .txt with the name."
    )


def _class_list(root: Path) -> tuple[str, ...] | None:
    path = (root if root.is_dir() else root.parent) / _CLASS_LIST
    if not path.is_file():
        return None
    with readable(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _only(found: Sequence[str], what: str, features: Any, where: str | Path) -> str:
    """The one column that was found, or the one of several with the usual name."""
    if what in found:
        return what
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{name} ({kind})" for name, kind in features.items())
    raise FovealError(
        f"{where} has {len(found) or 'no'} columns that could be the {what} among {there}; name "
        f"the right one {what!r}."
    )


def _holds_bytes(kind: Any) -> bool:
    inner = kind.get("bytes") if isinstance(kind, dict) else kind
    return getattr(inner, "dtype", None) in {"binary", "large_binary"}
