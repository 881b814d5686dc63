"""Images that tell the ranges of activations: of any kind that the library reads, no labels."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from foveal.data.folder import is_split
from foveal.data.images import EXTENSIONS, Source, mode_of, read_image
from foveal.data.shards import find_shards
from foveal.data.source import find_format, read_source
from foveal.data.sources import Joined, visible_files
from foveal.data.transforms import Preprocessing, eval_transform
from foveal.data.unlabelled import list_images_of
from foveal.errors import FovealError


def calibration_images(
    root: str | os.PathLike[str], preprocessing: Preprocessing, count: int
) -> Float[np.ndarray, "n c h w"]:
    """Some of the images under a path, spread evenly over them, as inputs of a network.

    Args:
        root: an image, a folder of images at any depth, or what `read_source` takes. Where the
            data have a part to judge by, it is left alone.
        preprocessing: of the network.
        count: of images; fewer where there are fewer.

    Raises:
        FovealError: there is no image, or one that is needed cannot be read.
    """
    sources = calibration_sources(Path(root))
    if not len(sources):
        raise FovealError(f"{root} holds no image to calibrate with; give one that does.")
    transform, mode = eval_transform(preprocessing), mode_of(preprocessing.in_chans)
    places = np.linspace(0, len(sources) - 1, min(count, len(sources))).round().astype(int)
    return np.stack([transform(read_image(sources[place], mode)).numpy() for place in places])


def calibration_sources(root: Path) -> Sequence[Source]:
    """Every image that may be calibrated with.

    Raises:
        FovealError: nothing there is accepted.
    """
    if not root.exists():
        raise FovealError(
            f"{root} does not exist; --calibration takes a folder of images, or data as "
            "`foveal train` does."
        )
    if root.is_dir() and is_split(root):
        return list_images_of(root / "train")
    if root.is_file() and root.suffix.lower() in EXTENSIONS:
        return list_images_of(root)
    if root.is_dir() and _holds_loose_images_alone(root):
        return list_images_of(root)
    match find_format(root):
        case "parquet" | "webdataset" as kind:
            return _joined([list_images_of(path) for path in find_shards(root, kind)["train"]])
        case "folder":
            return list_images_of(root)
        case _:
            return read_source(root).train.sources


def _holds_loose_images_alone(root: Path) -> bool:
    """Whether images lie there and nothing that has labels of its own."""
    suffixes = {path.suffix.lower() for path in visible_files(root)}
    return bool(suffixes & EXTENSIONS) and not suffixes & {".csv", ".parquet", ".tar", ".arrow"}


def _joined(parts: Sequence[Sequence[Source]]) -> Sequence[Source]:
    joined = parts[0]
    for part in parts[1:]:
        joined = Joined(joined, part)
    return joined
