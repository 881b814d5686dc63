"""Images with objects in them, as a PyTorch dataset and in batches, whatever file lists them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

from foveal.data.coco_masks import decode_masks
from foveal.data.dataset import SeededDataset, seeded
from foveal.data.images import read_image
from foveal.data.problems import AnnotationProblems

JointTransform = Callable[[Image.Image, dict[str, Any]], tuple[Tensor, dict[str, Any]]]


@dataclass(frozen=True)
class AnnotatedImage:
    """One image and its objects, in pixels of the image as it is read.

    Attributes:
        path: the file.
        image_id: number by which the annotations call it.
        size: height and width.
        boxes: x1, y1, x2, y2, inside the image.
        labels: classes from 0 up.
        crowd: which objects stand for many.
        areas: pixels of each object, as the annotations say.
        masks: compressed run lengths of each object, where masks were asked for.
        upright: whether the size is that of the image turned as the camera's note in it says.
    """

    path: Path
    image_id: int
    size: tuple[int, int]
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    crowd: Bool[np.ndarray, " n"]
    areas: Float[np.ndarray, " n"]
    masks: tuple[bytes, ...] | None = None
    upright: bool = False

    def read(self) -> Image.Image:
        """The picture, in colour.

        Raises:
            ImageError: it cannot be decoded.
        """
        return read_image(self.path, "RGB", upright=self.upright)


@dataclass(frozen=True)
class AnnotatedImages:
    """The images of one annotation file; those without objects are among them.

    Attributes:
        classes: names, by label.
        category_ids: number by which the annotations call each class, by label; ascending.
        images: what can be used.
        problems: what was left out or clipped, and why.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[AnnotatedImage, ...]
    problems: AnnotationProblems

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_objects(self) -> int:
        """Objects in all images, crowds among them."""
        return sum(len(image.labels) for image in self.images)

    def with_classes(self, classes: Sequence[str]) -> "AnnotatedImages":
        """The same with the labels of `classes`, all of its own among them, in that order.

        Classes that the annotations do not know get the numbers after theirs.
        """
        numbers = dict(zip(self.classes, self.category_ids, strict=True))
        unknown = count(max(self.category_ids, default=0) + 1)
        places = np.array([classes.index(name) for name in self.classes], np.int64)
        return replace(
            self,
            classes=tuple(classes),
            category_ids=tuple(
                numbers[name] if name in numbers else next(unknown) for name in classes
            ),
            images=tuple(replace(image, labels=places[image.labels]) for image in self.images),
        )

    def dataset(self, transform: JointTransform, *, seed: int = 0) -> "DetectionDataset":
        """The images for `train_loader` or `eval_loader`, with `collate_detection`."""
        return DetectionDataset(self.images, transform, seed=seed)


@dataclass(frozen=True)
class DetectionImages:
    """What a detector is trained on and judged by, with the same classes in both.

    Attributes:
        classes: names, by label.
        category_ids: number by which the annotations call each class, by label; ascending.
        train: what is trained on.
        val: what is held out.
    """

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    train: AnnotatedImages
    val: AnnotatedImages


class DetectionSample(TypedDict):
    """One item.

    Attributes:
        image: (3, h, w), normalised.
        target: "boxes" (n, 4) in pixels of `image`, "labels" (n), "crowd" (n) and, where the data
            were read with masks, "masks" (n, h, w).
        index: position in the data.
        image_id: number by which the annotations call it.
        size: height and width of the picture before it was transformed.
        name: its path.
    """

    image: Tensor
    target: dict[str, Tensor]
    index: int
    image_id: int
    size: tuple[int, int]
    name: str


class DetectionDataset(SeededDataset[DetectionSample]):
    """Transformed images and objects, the same for the same seed, epoch and index in any worker.

    Args:
        images: what to draw from.
        transform: takes a picture and a dict with "boxes" (tv_tensors.BoundingBoxes), "labels",
            "crowd" and perhaps "masks" (tv_tensors.Mask of 0 and 1); gives a normalised tensor
            and such a dict.
        seed: of what it draws.
    """

    def __init__(
        self, images: Sequence[AnnotatedImage], transform: JointTransform, *, seed: int = 0
    ):
        super().__init__(seed)
        self.images = images
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> DetectionSample:
        annotated = self.images[index]
        picture, target = annotated.read(), _target(annotated)
        with seeded(self.seed, self.epoch, index):
            image, target = self.transform(picture, target)
        return {
            "image": image,
            "target": _plain(target),
            "index": index,
            "image_id": annotated.image_id,
            "size": annotated.size,
            "name": str(annotated.path),
        }


def collate_detection(samples: Sequence[DetectionSample]) -> dict[str, Any]:
    """A batch: lists of what the samples hold, for images of several sizes; "index" is a tensor."""
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}
    return {**batch, "index": torch.tensor(batch["index"])}


def _target(image: AnnotatedImage) -> dict[str, Any]:
    """The objects for a joint transform; a copy, so that none changes the data."""
    target: dict[str, Any] = {
        "boxes": tv_tensors.BoundingBoxes(
            torch.from_numpy(image.boxes.copy()),
            format=tv_tensors.BoundingBoxFormat.XYXY,
            canvas_size=image.size,
        ),  # pyright: ignore[reportCallIssue]
        "labels": torch.from_numpy(image.labels.copy()),
        "crowd": torch.from_numpy(image.crowd.copy()),
    }
    if image.masks is not None:
        target["masks"] = tv_tensors.Mask(torch.from_numpy(decode_masks(image.masks, image.size)))
    return target


def _plain(target: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of no special kind, which go through loaders and networks alike."""
    plain = {key: value.as_subclass(Tensor) for key, value in target.items()}
    plain["boxes"] = plain["boxes"].float()
    if "masks" in plain:
        plain["masks"] = plain["masks"].bool()
    return plain
