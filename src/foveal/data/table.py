"""Images in Arrow tables: what `datasets` keeps on disk, read map-style."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foveal.data.dataset import LabelledImages, Samples
from foveal.data.images import Source
from foveal.data.labels import encode_labels, require_trained
from foveal.data.scan import Scan, find_columns
from foveal.data.screening import OnBadImage, require_every_class, screen
from foveal.data.shards import (
    Shard,
    ShardKind,
    ShardReader,
    image_of,
    readable,
    require_datasets,
    undecoded,
)
from foveal.data.sources import Sources
from foveal.data.split import stratified_split
from foveal.errors import FovealError

_VAL_NAMES = ("val", "validation", "valid")


class ArrowImages(Sources):
    """The images of a `datasets` collection, still encoded, read when asked for.

    Args:
        table: with undecoded images.
        columns: that may hold a row's image.
        names: what a person calls each row.
    """

    def __init__(self, table: Any, columns: Sequence[str], names: Sequence[str]):
        self.table = table.select_columns(list(columns))
        self.columns = columns
        self.names = names

    def __len__(self) -> int:
        return len(self.table)

    def _read(self, index: int) -> Source:
        return image_of(self.table[index], self.columns, self.names[index])


def read_shards(
    kind: ShardKind,
    scan: Scan,
    parts: dict[str, list[Path]],
    *,
    held_out: float,
    seed: int,
    on_bad_image: OnBadImage,
) -> LabelledImages:
    """The images of large files, from the copy that `datasets` makes in its cache.

    Args:
        kind: format of the files.
        scan: what they hold, those of `train` before those of `val`.
        parts: the files of each part.
        held_out: share of every class to judge by, where there is no `val`.
        seed: of that choice.
        on_bad_image: "refuse" or "skip".

    Raises:
        FovealError: labels that are no classes, or unreadable images.
    """
    labels = [label for shard in scan.shards for label in shard.labels]
    classes, indices = encode_labels(labels, scan.names, str(scan.shards[0].path))
    held = set(parts.get("val", ()))
    train_shards = [shard for shard in scan.shards if shard.path not in held]
    split = sum(len(shard.labels) for shard in train_shards)
    train = shard_samples(kind, train_shards, scan.columns, indices[:split])
    val = None
    if held:
        val_shards = [shard for shard in scan.shards if shard.path in held]
        val = shard_samples(kind, val_shards, scan.columns, indices[split:])
    return labelled(classes, train, val, held_out=held_out, seed=seed, on_bad_image=on_bad_image)


def shard_samples(
    kind: ShardKind, shards: Sequence[Shard], columns: tuple[str, ...], labels: Sequence[int]
) -> Samples:
    """The samples of large files, in order."""
    reader = ShardReader(kind, tuple(shard.path for shard in shards), columns)
    table = reader.load(streaming=False)
    names = [name for shard in shards for name in shard.names()]
    if len(table) != len(names):
        raise FovealError(
            f"{shards[0].path} and the files with it have {len(names)} samples, and {len(table)} "
            "were read; leave the files as they are while they are read."
        )
    return Samples(ArrowImages(table, columns, names), labels, names)


def read_saved(
    root: Path, *, held_out: float = 0.1, seed: int = 0, on_bad_image: OnBadImage = "refuse"
) -> LabelledImages:
    """The images in a folder that `datasets` wrote with `save_to_disk`.

    Args:
        root: the folder; a dictionary of splits has "train" and, if wanted, "val" or
            "validation".
        held_out: share of every class to judge by, where there is no such split.
        seed: of that choice.
        on_bad_image: "refuse" to raise on unreadable images, "skip" to leave them out.

    Raises:
        FovealError: it cannot be read, has no training split or no columns of image and label.
    """
    with readable(root):
        loaded = require_datasets().load_from_disk(str(root))
    tables = loaded if isinstance(loaded, dict) else {"train": loaded}
    val_name = next((name for name in _VAL_NAMES if name in tables), None)
    if "train" not in tables:
        raise FovealError(f"{root} has the splits {', '.join(tables)}; name one of them train.")
    used = ["train", *([val_name] if val_name else [])]
    columns = find_columns(tables["train"].features, root)
    raw = [label for name in used for label in tables[name][columns.label]]
    classes, indices = encode_labels(raw, columns.names, str(root))
    samples: list[Samples] = []
    for name in used:
        folder = root / name if isinstance(loaded, dict) else root
        names = [f"{folder}/row {row}" for row in range(len(tables[name]))]
        table = undecoded(tables[name], [columns.image])
        labels = indices[: len(names)] if name == "train" else indices[-len(names) :]
        samples.append(Samples(ArrowImages(table, [columns.image], names), labels, names))
    val = samples[1] if val_name else None
    return labelled(
        classes, samples[0], val, held_out=held_out, seed=seed, on_bad_image=on_bad_image
    )


def labelled(
    classes: tuple[str, ...],
    train: Samples,
    val: Samples | None,
    *,
    held_out: float,
    seed: int,
    on_bad_image: OnBadImage,
) -> LabelledImages:
    """Samples of known classes, without the unreadable ones, and with some held out."""
    good, bad = screen(train, on_bad_image)
    require_every_class(good, train.labels, classes, bad)
    if val is None:
        kept, held = stratified_split(good.labels, held_out, seed)
        parts = (good.take(kept), good.take(held))
        return LabelledImages(classes, *parts, tuple(bad), named_val=False)
    held, bad_held = screen(val, on_bad_image)
    require_trained(good.labels, held.labels, classes)
    return LabelledImages(classes, good, held, (*bad, *bad_held))
