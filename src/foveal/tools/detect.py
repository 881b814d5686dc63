"""What a trained detector finds in image files."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from foveal.data.images import read_image, require_images
from foveal.errors import FovealError
from foveal.tasks.detection.contract import Detector
from foveal.tasks.detection.records import Rle, decode_masks, found_objects
from foveal.tools.report.objects import Drawing, drawn_objects

JointTransform = Callable[[Image.Image, dict[str, Any]], tuple[Tensor, Mapping[str, Any]]]


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, the surest first, in pixels of the picture in the file.

    Attributes:
        image: what a person calls it, such as its file.
        size: height and width.
        boxes: x1, y1, x2, y2.
        labels: classes by index.
        names: of those classes.
        scores: confidence in [0, 1].
        run_lengths: masks in COCO's compressed form, where the detector draws them.
    """

    image: str
    size: tuple[int, int]
    boxes: Float[np.ndarray, "n 4"]
    labels: Int[np.ndarray, " n"]
    names: tuple[str, ...]
    scores: Float[np.ndarray, " n"]
    run_lengths: tuple[Rle, ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def masks(self) -> Bool[np.ndarray, "n h w"] | None:
        """Unpacked, each of the picture's size; None where the detector draws none."""
        return None if self.run_lengths is None else decode_masks(self.run_lengths, self.size)

    def drawn(self, picture: Image.Image, side: int = 960) -> Image.Image:
        """The picture with boxes, names, scores and masks.

        Args:
            picture: that of the file.
            side: longer side of the result, in pixels.
        """
        texts = [f"{n} {score:.2f}" for n, score in zip(self.names, self.scores, strict=True)]
        masks, labels = self.masks, self.labels.tolist()
        # The surest last, on top.
        drawing = Drawing(
            self.boxes[::-1], labels[::-1], texts[::-1], None if masks is None else masks[::-1]
        )
        return drawn_objects(picture, drawing, side)

    def to_dict(self) -> dict[str, Any]:
        """Everything in plain values, for JSON."""
        plain = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in asdict(self).items()
        }
        if self.run_lengths is not None:
            plain["run_lengths"] = [
                {"size": list(rle["size"]), "counts": bytes(rle["counts"]).decode("ascii")}
                for rle in self.run_lengths
            ]
        return plain


def detect_images(
    detector: Detector,
    paths: Sequence[str | Path],
    *,
    classes: Sequence[str],
    transform: JointTransform,
    score_threshold: float = 0.5,
    batch_size: int = 4,
    on_done: Callable[[int, int], None] = lambda *_: None,
) -> list[Detections]:
    """What a detector finds in each image file.

    Args:
        detector: trained; is put into eval mode.
        paths: image files, in the order of the result.
        classes: names by index.
        transform: that of evaluation, from picture and target to the network's image.
        score_threshold: least score, in [0, 1].
        batch_size: images at a time.
        on_done: told how many of how many images are done.

    Raises:
        FovealError: a file is no image, or classes or threshold do not fit; all of that is known
            before the first image is looked at.
    """
    if len(classes) != detector.num_classes:
        raise FovealError(
            f"There are {len(classes)} names of classes for a detector of {detector.num_classes}; "
            "give those that it was trained with."
        )
    if not 0 <= score_threshold <= 1:
        raise FovealError(f"A score is in [0, 1]; {score_threshold} is not: choose one that is.")
    files = [Path(path) for path in paths]
    require_images(files)
    detector.eval()
    found: list[Detections] = []
    for start in range(0, len(files), batch_size):
        part = files[start : start + batch_size]
        found += _detect(detector, part, classes, transform, score_threshold)
        on_done(len(found), len(files))
    return found


def _detect(
    detector: Detector,
    files: Sequence[Path],
    classes: Sequence[str],
    transform: JointTransform,
    threshold: float,
) -> list[Detections]:
    device = next(detector.parameters()).device
    pictures = [read_image(file) for file in files]
    images = [transform(picture, {})[0].to(device) for picture in pictures]
    with torch.inference_mode():
        answers: Any = detector(images)
    detections = []
    for file, picture, image, answer in zip(files, pictures, images, answers, strict=True):
        # Before masks are brought to the picture's size, which costs more than all the rest.
        kept = answer["scores"] >= threshold
        sure: Any = {key: value[kept] for key, value in answer.items()}
        seen = int(image.shape[-2]), int(image.shape[-1])
        size = picture.height, picture.width
        objects = found_objects(sure, seen, size)
        names = tuple(str(classes[label]) for label in objects.labels)
        where = objects.boxes, objects.labels, names, objects.scores, objects.masks
        detections.append(Detections(str(file), size, *where))
    return detections
