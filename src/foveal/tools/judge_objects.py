"""How well a detector does on annotated images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from foveal.data.detection import AnnotatedImages, collate_detection
from foveal.data.loader import eval_loader
from foveal.data.screening import enumerate_some
from foveal.errors import FovealError
from foveal.tasks.detection.contract import Detector
from foveal.tasks.detection.records import ImageRecord
from foveal.tasks.detection.result import DetectionResult
from foveal.tasks.detection.task import Detection
from foveal.tasks.detection.truths import truths_of_images
from foveal.tools.dense import TrainedDense
from foveal.train.batches import Batches


@dataclass(frozen=True, eq=False)
class ObjectEvaluation:
    """The figures, and what they were taken over.

    Attributes:
        result: COCO's figures, in pixels of the original pictures.
        records: the judged images.
        category_ids: number by which the annotations call each of the detector's classes.
    """

    result: DetectionResult
    records: tuple[ImageRecord, ...]
    category_ids: tuple[int, ...]


def judge_objects(
    trained: TrainedDense[Detector],
    images: AnnotatedImages,
    *,
    batch_size: int = 4,
    workers: int = 2,
    on_done: Callable[[int, int], None] = lambda *_: None,
) -> ObjectEvaluation:
    """Judge a detector by annotated images.

    Args:
        trained: on its device.
        images: with classes that it was trained on.
        batch_size: images at a time.
        workers: processes that load images.
        on_done: told how many of how many images are done.

    Raises:
        FovealError: the images have objects of classes that the detector does not know.
    """
    classes = trained.card.classes
    unknown = [name for name in images.classes if name not in classes]
    if unknown:
        raise FovealError(
            f"The images have objects of {enumerate_some(unknown)}, which the detector does not "
            f"know; it knows {enumerate_some(classes)}: judge it by annotations of those."
        )
    images = images.with_classes(classes)
    model: Any = trained.model.eval()
    task = Detection(len(classes), truths=truths_of_images(images.images))
    meter = task.meter()
    loader = eval_loader(
        images.dataset(trained.card.transform()),
        batch_size=batch_size,
        workers=workers,
        collate_fn=collate_detection,
    )
    done = 0
    with torch.inference_mode():
        for batch in Batches(loader, next(model.parameters()).device).epoch(0):
            meter.update(task.predict(model, batch))
            done += task.count(batch)
            on_done(done, len(images))
    return ObjectEvaluation(meter.result(classes), meter.records(), images.category_ids)
