"""A CSV file that lists images: columns `image`, `label` and, if wanted, `split`."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from foveal.data.dataset import LabelledImages, Samples
from foveal.data.screening import OnBadImage, enumerate_some, require_every_class, screen
from foveal.data.split import stratified_split
from foveal.errors import FovealError, closest

_COLUMNS = ("image", "label", "split")


@dataclass(frozen=True)
class _Row:
    """One line of the file; `part` is None where the file has no `split` column."""

    line: int
    path: Path
    label: str
    part: str | None


def read_manifest(
    path: Path, *, held_out: float = 0.1, seed: int = 0, on_bad_image: OnBadImage = "refuse"
) -> LabelledImages:
    """The images that a CSV file lists, every one decoded once to know that it can be.

    Args:
        path: columns `image` (relative to the CSV file), `label` (a class name) and optionally
            `split` ("train" or "val").
        held_out: share of every class to judge by, where there is no `split`.
        seed: of that choice.
        on_bad_image: "refuse" to raise on unreadable images, "skip" to leave them out.

    Raises:
        FovealError: a missing column or file, an unknown split, a repeated image, each with its
            line, or unreadable images.
    """
    rows = _rows(path)
    _require_good(path, rows)
    classes = tuple(sorted({row.label for row in rows}))
    number = {name: index for index, name in enumerate(classes)}
    listed = Samples(
        [row.path for row in rows],
        [number[row.label] for row in rows],
        [str(row.path) for row in rows],
    )
    samples, bad = screen(listed, on_bad_image)
    require_every_class(samples, listed.labels, classes, bad)
    if rows[0].part is None:
        kept, held = stratified_split(samples.labels, held_out, seed)
    else:
        parts = {str(row.path): row.part for row in rows}
        kept = [i for i, name in enumerate(samples.names) if parts[name] == "train"]
        held = [i for i, name in enumerate(samples.names) if parts[name] == "val"]
    train, val = samples.take(kept), samples.take(held)
    found = f"a CSV manifest, {path.name}"
    named_val = rows[0].part is not None
    return LabelledImages(classes, train, val, tuple(bad), found=found, named_val=named_val)


def _rows(path: Path) -> list[_Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            _require_columns(path, reader.fieldnames or ())
            rows = [_row(path, reader.line_num, values) for values in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FovealError(
            f"{path} cannot be read as a CSV file: {error}; write it as UTF-8 text with commas."
        ) from error
    if not rows:
        raise FovealError(f"{path} lists no images; add a line for each.")
    return rows


def _require_columns(path: Path, present: Sequence[str]) -> None:
    for name in ("image", "label"):
        if name not in present:
            raise FovealError(
                f"{path}, line 1: there is no column {name!r} among {', '.join(present) or 'none'};"
                " the first line is image,label or image,label,split."
                + closest(name, [column for column in present if column not in _COLUMNS])
            )


def _row(path: Path, line: int, values: dict[str, str | None]) -> _Row:
    image, label = values["image"] or "", values["label"] or ""
    if not image or not label:
        raise FovealError(
            f"{path}, line {line}: the {'label' if image else 'image'} is missing; fill it in or "
            "remove the line."
        )
    if "split" not in values:
        return _Row(line, path.parent / image, label, None)
    part = values["split"]
    if part in {"train", "val"}:
        return _Row(line, path.parent / image, label, part)
    raise FovealError(
        f"{path}, line {line}: the split is {part or ''!r}; it is train or val, or leave the "
        "column out to have a share of every class held out."
    )


def _require_good(path: Path, rows: Sequence[_Row]) -> None:
    missing = [f"line {row.line} ({row.path})" for row in rows if not row.path.is_file()]
    if missing:
        raise FovealError(
            f"{path} lists {len(missing)} images that are no files: {enumerate_some(missing)}; "
            "images are looked for relative to the folder of the CSV file."
        )
    first: dict[Path, int] = {}
    for row in rows:
        line = first.setdefault(row.path.resolve(), row.line)
        if line != row.line:
            raise FovealError(
                f"{path}, line {row.line}: the image of line {line} again; list each once."
            )
    if rows[0].part is not None:
        _require_both_parts(path, rows)


def _require_both_parts(path: Path, rows: Sequence[_Row]) -> None:
    trained = {row.label for row in rows if row.part == "train"}
    held = [row for row in rows if row.part == "val"]
    if not held or not trained:
        raise FovealError(
            f"{path} has no line whose split is {'train' if held else 'val'}; add some, or leave "
            "the column out to have a share of every class held out."
        )
    for row in held:
        if row.label not in trained:
            raise FovealError(
                f"{path}, line {row.line}: the class {row.label!r} is in val alone; add lines of "
                "it to train or remove this one."
            )
