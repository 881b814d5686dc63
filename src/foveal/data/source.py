"""Labelled images from whatever holds them: class folders, a CSV file, parquet, Arrow or tars."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args, overload

from foveal.data.dataset import LabelledImages
from foveal.data.folder import read_folder
from foveal.data.images import EXTENSIONS
from foveal.data.manifest import read_manifest
from foveal.data.scan import Scan, scan_parquet, scan_tars
from foveal.data.screening import OnBadImage
from foveal.data.shards import ShardKind, find_shards
from foveal.data.sources import visible_files
from foveal.data.stream import StreamedImages, read_stream
from foveal.data.table import read_saved, read_shards
from foveal.errors import FovealError, OptionError, closest

Format = Literal["auto", "folder", "csv", "parquet", "arrow", "webdataset"]

MANIFEST = "manifest.csv"

_ACCEPTED = (
    f"class folders of images, a .csv file or a folder with {MANIFEST}, .parquet files, a folder "
    "written by save_to_disk, or .tar files"
)

_WORDS = {
    "folder": "a folder of class folders",
    "csv": "a CSV manifest",
    "parquet": "parquet files",
    "arrow": "a folder written by save_to_disk",
    "webdataset": "WebDataset tars",
}


@overload
def read_source(
    path: str | os.PathLike[str],
    *,
    format: Format = ...,
    held_out: float = ...,
    seed: int = ...,
    on_bad_image: OnBadImage = ...,
    streaming: Literal[False] = ...,
) -> LabelledImages:
    """Map-style."""


@overload
def read_source(
    path: str | os.PathLike[str],
    *,
    format: Format = ...,
    held_out: float = ...,
    seed: int = ...,
    on_bad_image: OnBadImage = ...,
    streaming: bool,
) -> LabelledImages | StreamedImages:
    """Map-style or streamed."""


def read_source(
    path: str | os.PathLike[str],
    *,
    format: Format = "auto",
    held_out: float = 0.1,
    seed: int = 0,
    on_bad_image: OnBadImage = "refuse",
    streaming: bool = False,
) -> LabelledImages | StreamedImages:
    """Images to train on and to judge by; `found` of the result says what they were taken for.

    Args:
        path: file or folder.
        format: of what is there; "auto" to find out.
        held_out: share of every class to judge by, in (0, 1), where the data have no such part.
        seed: of that choice.
        on_bad_image: "refuse" to raise on unreadable images, "skip" to leave them out. Streamed
            training images are met with only while training.
        streaming: read training images from parquet or tars in passing, without a copy.

    Raises:
        FovealError: nothing that is accepted, more than one kind of it, or unusable data.
        MissingExtraError: `datasets` is needed and not installed.
    """
    root = Path(path)
    kind = _kind(root, format)
    match kind:
        case "parquet" | "webdataset":
            return _read_shards(root, kind, held_out, seed, on_bad_image, streaming)
        case _ if streaming:
            raise FovealError(
                f"Only parquet files and WebDataset tars are streamed, and {root} is taken for "
                f"{_WORDS[kind]}; leave streaming off: images are read when needed all the same."
            )
        case "csv":
            file = root / MANIFEST if root.is_dir() else root
            return read_manifest(file, held_out=held_out, seed=seed, on_bad_image=on_bad_image)
    read = read_folder if kind == "folder" else read_saved
    data = read(root, held_out=held_out, seed=seed, on_bad_image=on_bad_image)
    return replace(data, found=_WORDS[kind])


def find_format(root: str | os.PathLike[str]) -> Format:
    """What a path holds.

    A manifest speaks for the images beside it; otherwise two kinds at once are ambiguous.

    Raises:
        FovealError: nothing that is accepted, or more than one kind of it.
    """
    root = Path(root)
    if not root.exists():
        raise FovealError(f"{root} does not exist; give {_ACCEPTED}.")
    found = _formats_in(root) if root.is_dir() else _format_of_file(root)
    if not found:
        raise FovealError(f"{root} holds {_contents(root)}, and none of {_ACCEPTED}.")
    if "csv" in found:
        return "csv"
    if len(found) > 1:
        words = " and ".join(_WORDS[kind] for kind in sorted(found))
        raise FovealError(
            f"{root} could be {words}; say which with format, one of {', '.join(sorted(found))}."
        )
    return found.pop()


def _kind(root: Path, format: Format) -> Format:
    if format not in get_args(Format):
        raise OptionError(
            f"Data come in the formats {', '.join(get_args(Format))}, not {format!r}."
            + closest(format, get_args(Format))
        )
    if format == "auto":
        return find_format(root)
    if not root.exists():
        raise FovealError(f"{root} does not exist; give {_WORDS[format]}.")
    if format == "csv" and root.is_dir() and not (root / MANIFEST).is_file():
        raise FovealError(f"{root} has no {MANIFEST}; give the CSV file itself.")
    return format


def _formats_in(root: Path) -> set[Format]:
    """Everything that a folder could be taken for."""
    if (root / MANIFEST).is_file():
        return {"csv"}
    if any((root / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return {"arrow"}
    found: set[Format] = set()
    for path in visible_files(root):
        suffix = path.suffix.lower()
        if suffix in {".parquet", ".tar"}:
            found.add("parquet" if suffix == ".parquet" else "webdataset")
        elif suffix in EXTENSIONS and path.parent != root:
            found.add("folder")
    return found


def _format_of_file(path: Path) -> set[Format]:
    by_suffix: dict[str, Format] = {".csv": "csv", ".parquet": "parquet", ".tar": "webdataset"}
    return {by_suffix[path.suffix.lower()]} if path.suffix.lower() in by_suffix else set()


def _contents(root: Path) -> str:
    """What is there, in words."""
    if not root.is_dir():
        return f"a {root.suffix} file" if root.suffix else "a file without a suffix"
    suffixes = sorted({path.suffix.lower() or "no suffix" for path in visible_files(root)})
    return f"files with {', '.join(suffixes[:6])}" if suffixes else "no files"


def _read_shards(
    root: Path,
    kind: ShardKind,
    held_out: float,
    seed: int,
    on_bad_image: OnBadImage,
    streaming: bool,
) -> LabelledImages | StreamedImages:
    parts = find_shards(root, kind)
    files = [*parts["train"], *parts.get("val", ())]
    scan: Scan = scan_parquet(files) if kind == "parquet" else scan_tars(files, root)
    read = read_stream if streaming else read_shards
    data = read(kind, scan, parts, held_out=held_out, seed=seed, on_bad_image=on_bad_image)
    found = f"{_WORDS[kind]} ({len(files)})"
    return replace(data, found=found, ignored=len(parts.get("test", ())))
