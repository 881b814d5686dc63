"""What is in the images, read from COCO's annotations: to judge by the very numbers in the file."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from foveal.data.detection import AnnotatedImage
from foveal.errors import FovealError, first_line
from foveal.tasks.detection.records import DECIMALS, Rle, TrueObjects, coco_masks


def read_truths(file: str | os.PathLike[str]) -> dict[int, TrueObjects]:
    """The objects of every image of an annotation file, by the image's id.

    A sample's target went through the network's image and back, and its masks through two
    resizings; these did not. Labels are 0 to K−1 in the order of the categories' ids.

    Raises:
        FovealError: the file is not COCO's JSON.
        MissingExtraError: there are masks, and faster-coco-eval is not installed.
    """
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        return truths_of(content)
    except OSError as error:
        raise FovealError(f"Cannot read {file}: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, FovealError):
            raise
        raise FovealError(
            f"{file} holds no COCO annotations ({type(error).__name__}: {first_line(error)}); give "
            "JSON with images, annotations and categories."
        ) from error


def truths_of(content: Mapping[str, Any]) -> dict[int, TrueObjects]:
    """As `read_truths`, of a file's content; objects of unknown classes are left out."""
    labels = {
        id_: label for label, id_ in enumerate(sorted(c["id"] for c in content["categories"]))
    }
    annotations = defaultdict[int, list[Mapping[str, Any]]](list)
    for annotation in content["annotations"]:
        if annotation["category_id"] in labels:
            annotations[annotation["image_id"]].append(annotation)
    return {
        image["id"]: _objects(annotations[image["id"]], labels, image)
        for image in content["images"]
    }


def _objects(
    annotations: list[Mapping[str, Any]], labels: Mapping[int, int], image: Mapping[str, Any]
) -> TrueObjects:
    xywh = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    # A box may stand without a mask; then the masks of the image cannot be judged.
    drawn = all(annotation.get("segmentation") for annotation in annotations)
    masks = None if not drawn else tuple(_rle(a["segmentation"], image) for a in annotations)
    areas = [a.get("area", a["bbox"][2] * a["bbox"][3]) for a in annotations]
    return TrueObjects(
        xywh,
        np.array([labels[a["category_id"]] for a in annotations], np.int64),
        masks,
        np.array([bool(a.get("iscrowd", 0)) for a in annotations], bool),
        np.array(areas, np.float64),
    )


def _rle(segmentation: Any, image: Mapping[str, Any]) -> Rle:
    """Polygons, or run lengths packed or not, as packed ones."""
    return coco_masks().segmToRle(segmentation, image["width"], image["height"])


def truths_of_images(images: Iterable[AnnotatedImage]) -> dict[int, TrueObjects]:
    """As `read_truths`, of images that were read already, without what was left out of them."""
    return {
        image.image_id: TrueObjects(
            np.concatenate([image.boxes[:, :2], image.boxes[:, 2:] - image.boxes[:, :2]], axis=1)
            .astype(np.float64)
            .round(DECIMALS),
            image.labels,
            None
            if image.masks is None
            else tuple({"size": list(image.size), "counts": runs} for runs in image.masks),
            image.crowd,
            image.areas.astype(np.float64),
        )
        for image in images
    }
