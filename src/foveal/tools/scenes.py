"""How well a segmenter does on labelled images, and which of them it does best and worst on."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from foveal.tasks.segmentation.meter import SegmentationMeter, confusion_of
from foveal.tasks.segmentation.result import SegmentationResult, mean_iou
from foveal.tasks.segmentation.task import resized
from foveal.tools.segment import WHOLE_IMAGE, SegmentInference, look_of

# Told how many images are done.
OnImage = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """How images are judged, and which of them are kept to be shown.

    Attributes:
        inference: how the segmenter looks at an image.
        shown: how many of the worst images are kept, and how many of the best.
        mean: what was taken from the images' channels, of intensities in [0, 1].
        std: what they were divided by.
        on_image: called after every batch.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    inference: SegmentInference = WHOLE_IMAGE
    shown: int = 4
    on_image: OnImage | None = None


@dataclass(frozen=True, eq=False)
class JudgedScene:
    """An image, what its pixels are, and what a segmenter takes them for.

    Attributes:
        name: of the image, such as its file.
        image: sRGB, of the labels' size.
        labels: a class for every pixel, or the ignored label.
        predicted: a class for every pixel.
        iou: mean intersection over union in per cent, of the classes that this image or its
            prediction has.
    """

    name: str
    image: UInt8[np.ndarray, "h w 3"]
    labels: Int64[np.ndarray, "h w"]
    predicted: Int64[np.ndarray, "h w"]
    iou: float


@dataclass(frozen=True, eq=False)
class SceneEvaluation:
    """The figures, and the scenes to be shown.

    Attributes:
        result: over the pixels of all images together.
        worst: scenes by rising IoU.
        best: scenes by falling IoU, none of which is among the worst.
        ious: of every image that has a pixel that counts, by name.
        ignore_index: label of pixels that do not count.
        inference: how the segmenter looked.
    """

    result: SegmentationResult
    worst: tuple[JudgedScene, ...]
    best: tuple[JudgedScene, ...]
    ious: tuple[tuple[str, float], ...]
    ignore_index: int
    inference: SegmentInference


def judge_scenes(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    classes: Sequence[str],
    settings: SceneSettings,
    *,
    ignore_index: int = 255,
) -> SceneEvaluation:
    """Judge a segmenter by labelled images.

    Args:
        model: a `Segmenter`; it is put into eval mode.
        batches: `image`, `label` and `name` of images.
        classes: names by index.
        settings: how to look, and what to keep.
        ignore_index: label of pixels that do not count.

    Raises:
        FovealError: a label is no class, or no pixel counts.
    """
    device = next(model.parameters()).device
    model.eval()
    look, meter = look_of(model, settings.inference), SegmentationMeter(len(classes), ignore_index)
    extremes = _Extremes(settings.shown)
    ious: list[tuple[str, float]] = []
    with torch.inference_mode():
        for batch in batches:
            labels: Tensor = batch["label"].long().cpu()
            seen = resized(look(batch["image"].to(device)), labels.shape[-2:])
            predicted = seen.argmax(1).cpu()
            meter.update((predicted, labels))
            for row, name in enumerate(map(str, batch["name"])):
                matrix = confusion_of(
                    predicted[row], labels[row], len(classes), ignore_index
                ).numpy()
                if matrix.any():
                    iou = mean_iou(matrix)
                    ious.append((name, iou))
                    image = batch["image"][row]
                    extremes.offer(_Candidate(name, image, labels[row], predicted[row], iou))
            if settings.on_image is not None:
                settings.on_image(meter.num_images)
    result = meter.result(classes)
    # Raises where no pixel counted, before anything is drawn.
    _ = result.miou
    worst, best = extremes.scenes(settings)
    return SceneEvaluation(result, worst, best, tuple(ious), ignore_index, settings.inference)


@dataclass(frozen=True, eq=False)
class _Candidate:
    name: str
    image: Tensor
    labels: Tensor
    predicted: Tensor
    iou: float

    def scene(self, settings: SceneSettings) -> JudgedScene:
        image = _visible(self.image, settings, self.labels.shape)
        return JudgedScene(self.name, image, self.labels.numpy(), self.predicted.numpy(), self.iou)


class _Extremes:
    """The images with the least and the greatest IoU so far; no more than these are kept."""

    def __init__(self, count: int):
        self.count = count
        self.kept: list[_Candidate] = []

    def offer(self, candidate: _Candidate) -> None:
        ranked = sorted([*self.kept, candidate], key=lambda kept: kept.iou)
        left = len(ranked) - self.count
        self.kept = ranked if left <= self.count else ranked[: self.count] + ranked[left:]

    def scenes(
        self, settings: SceneSettings
    ) -> tuple[tuple[JudgedScene, ...], tuple[JudgedScene, ...]]:
        """Where there are too few images for both, the worst come first."""
        scenes = [candidate.scene(settings) for candidate in self.kept]
        worst, rest = scenes[: self.count], scenes[self.count :]
        return tuple(worst), tuple(reversed(rest))


def _visible(
    image: Float[Tensor, "c h w"], settings: SceneSettings, size: Sequence[int]
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A normalised image as a person knows it, of its first three channels; or its only one."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (settings.mean, settings.std))
    plain = resized((image.float().cpu() * std + mean)[None], size)[0].clamp(0, 1)
    colours = plain[:3] if len(plain) >= 3 else plain[:1].expand(3, -1, -1)
    return (255 * colours).round().byte().movedim(0, -1).numpy()
