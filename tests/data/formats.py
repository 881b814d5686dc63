"""The same small pictures in every format that is read."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from pyarrow import parquet

from tests.pictures import COLOURS

CLASSES = tuple(sorted(COLOURS))

Item = tuple[str, str, bytes]


def items(folder: Path) -> list[Item]:
    """Key, class and bytes of every file, the classes mixed."""
    files = sorted(folder.rglob("*.png"), key=lambda path: (path.stem, path.parent.name))
    return [(f"{p.parent.name}/{p.stem}", p.parent.name, p.read_bytes()) for p in files]


def cut(found: Sequence[Item], pieces: int) -> list[Sequence[Item]]:
    """As many runs of them, unequal in length."""
    step = len(found) // pieces + 1
    return [found[start : start + step] for start in range(0, len(found), step)]


def write_csv(folder: Path, root: Path) -> Path:
    root.mkdir()
    (root / "pictures").symlink_to(folder)
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label"])
        writer.writerows([f"pictures/{key}.png", name] for key, name, _ in items(folder))
    return root


def write_parquet(found: Sequence[Item], root: Path, pieces: int = 3) -> Path:
    """As people write it who know the hub: features of its own, row groups."""
    root.mkdir(parents=True)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    for number, part in enumerate(cut(found, pieces)):
        rows: dict[str, Any] = {
            "image": [{"bytes": data, "path": None} for _, _, data in part],
            "label": [CLASSES.index(name) for _, name, _ in part],
        }
        table = datasets.Dataset.from_dict(rows, features=features)
        table.to_parquet(str(root / f"part-{number:05d}.parquet"), batch_size=3)
    return root


def write_plain_parquet(found: Sequence[Item], root: Path) -> Path:
    """As people write it who do not: bytes and class names."""
    root.mkdir()
    table = {"image": [data for *_, data in found], "label": [name for _, name, _ in found]}
    parquet.write_table(
        pa.table({**table, "extra": list(range(len(found)))}), root / "a [1].parquet"
    )
    return root


def write_saved(found: Sequence[Item], root: Path) -> Path:
    rows: dict[str, Any] = {
        "image": [{"bytes": data, "path": None} for *_, data in found],
        "label": [name for _, name, _ in found],
    }
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(root)
    return root


def write_tars(
    found: Sequence[Item],
    root: Path,
    pieces: int = 3,
    label: Callable[[str], tuple[str, str]] = lambda name: ("cls", str(CLASSES.index(name))),
) -> Path:
    root.mkdir(parents=True)
    for number, part in enumerate(cut(found, pieces)):
        with tarfile.open(root / f"part-{number:05d}.tar", "w") as archive:
            for key, name, data in part:
                ending, text = label(name)
                for suffix, content in (("png", data), (ending, text.encode())):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def json_label(name: str) -> tuple[str, str]:
    return "json", json.dumps({"label": name, "more": [1, 2]})


FORMATS: dict[str, tuple[str, Callable[[Path, Path], Path]]] = {
    "csv": ("csv", write_csv),
    "parquet": ("parquet", lambda folder, root: write_parquet(items(folder), root)),
    "plain parquet": ("parquet", lambda folder, root: write_plain_parquet(items(folder), root)),
    "arrow": ("arrow", lambda folder, root: write_saved(items(folder), root)),
    "tars": ("webdataset", lambda folder, root: write_tars(items(folder), root)),
    "tars with names": (
        "webdataset",
        lambda folder, root: write_tars(items(folder), root, label=lambda name: ("txt", name)),
    ),
    "tars with json": (
        "webdataset",
        lambda folder, root: write_tars(items(folder), root, label=json_label),
    ),
}
