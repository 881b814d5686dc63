"""Pictures with a class for every pixel, as a PyTorch dataset."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torchvision.tv_tensors import Mask

from foveal.data.dataset import SeededDataset, seeded
from foveal.data.images import DECODE_ERRORS, ImageError, read_image, verify_image
from foveal.data.joint_transforms import JointTransform
from foveal.data.problems import AnnotationProblems
from foveal.errors import first_line

# Modes of PIL in which a pixel is one whole number; a palette's are its entries.
_INDEX_MODES = frozenset({"1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N"})


@dataclass(frozen=True)
class Scene:
    """A picture and the file of its labels.

    Attributes:
        image: the picture's file.
        label: an image file with a class for each pixel.
        upright: whether the labels are of the picture turned as the camera's note in it says.
    """

    image: Path
    label: Path
    upright: bool = True

    def read_image(self, mode: str = "RGB") -> Image.Image:
        """The picture in PIL's `mode`, of the labels' size.

        Raises:
            ImageError: it cannot be decoded.
        """
        return read_image(self.image, mode, upright=self.upright)

    def read_label(self) -> Int[np.ndarray, "h w"]:
        """The class of every pixel.

        Raises:
            ImageError: it cannot be decoded, or is no image of class indices.
        """
        return read_label(self.label)


@dataclass(frozen=True)
class LabelledScenes:
    """The scenes of one split.

    Attributes:
        classes: names, by class index.
        ignore_index: label of pixels that do not count.
        scenes: what can be used, in the order of their names.
        pixels: how many each class has in all scenes.
        ignored: how many pixels do not count.
        problems: what was left out, and why.
    """

    classes: tuple[str, ...]
    ignore_index: int
    scenes: tuple[Scene, ...]
    pixels: tuple[int, ...]
    ignored: int
    problems: AnnotationProblems

    def __len__(self) -> int:
        return len(self.scenes)

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes without a pixel."""
        pairs = zip(self.classes, self.pixels, strict=True)
        return tuple(name for name, count in pairs if not count)

    def dataset(
        self, transform: JointTransform, *, mode: str = "RGB", seed: int = 0
    ) -> "SegmentationDataset":
        """The scenes for `train_loader`, or for `eval_loader` with batches of one.

        Args:
            transform: of `segmentation_transforms`.
            mode: PIL's, of the pictures.
            seed: of what it draws.
        """
        return SegmentationDataset(self.scenes, transform, mode=mode, seed=seed)


class SegmentationSample(TypedDict):
    """One item; training items can be stacked, others have sizes of their own.

    Attributes:
        image: (3, h, w), normalised.
        label: class of every pixel (h, w), int64.
        index: position in the data.
        name: path of the picture.
    """

    image: Float[Tensor, "c h w"]
    label: Int[Tensor, "h w"]
    index: int
    name: str


class SegmentationDataset(SeededDataset[SegmentationSample]):
    """Transformed scenes, the same for the same seed, epoch and index in any worker.

    Args:
        scenes: what to draw from.
        transform: of `segmentation_transforms`.
        mode: PIL's, of the pictures.
        seed: of what it draws.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        transform: JointTransform,
        *,
        mode: str = "RGB",
        seed: int = 0,
    ):
        super().__init__(seed)
        self.scenes = scenes
        self.transform = transform
        self.mode = mode

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> SegmentationSample:
        scene = self.scenes[index]
        picture, labels = scene.read_image(self.mode), Mask(torch.from_numpy(scene.read_label()))
        with seeded(self.seed, self.epoch, index):
            image, target = self.transform(picture, {"semantic": labels})
        return {
            "image": image,
            "label": target["semantic"],
            "index": index,
            "name": str(scene.image),
        }


class LabelError(ImageError):
    """An image that does not hold class indices; `reason` is the kind of fault in a few words."""


def read_label(path: Path) -> Int[np.ndarray, "h w"]:
    """The class of every pixel of a label file: uint8, or int32 where there are more than 256.

    Grey images of 8 and 16 bits hold the class as intensity, palette images as the entry's number.

    Raises:
        ImageError: it cannot be decoded.
        LabelError: it is an image of something else.
    """
    indices = np.array(open_label(path))
    return indices.astype(np.uint8 if indices.dtype.itemsize == 1 else np.int32)


def open_label(path: Path) -> Image.Image:
    """A label file as PIL has it, decoded; as `read_label`."""
    try:
        with Image.open(path) as image:
            image.load()
    except DECODE_ERRORS as error:
        bad = verify_image(path)
        reason = bad.reason if bad else first_line(error)
        raise ImageError(f"{path} is not an image that can be read: {reason}.", reason) from error
    if image.format == "JPEG":
        raise LabelError(
            f"{path} is a JPEG, which does not keep class indices as they are; write labels as "
            "PNG.",
            "label in JPEG",
        )
    if image.mode not in _INDEX_MODES:
        raise LabelError(
            f"{path} is in colours ({image.mode}), and a label file holds the index of a class for "
            "each pixel; write it as a grey or palette PNG of indices.",
            "label in colours",
        )
    return image
