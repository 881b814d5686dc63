"""What a trained segmenter takes the pixels of image files for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image

from foveal.data.images import read_image, require_images
from foveal.tasks.segmentation.contract import Segmenter
from foveal.tools.dense import TrainedDense
from foveal.tools.report.class_colours import class_colours
from foveal.tools.segment import WHOLE_IMAGE, SegmentInference, segment


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """The likeliest class of every pixel of one image file.

    Attributes:
        image: the file.
        classes: names by index.
        labels: a class for every pixel.
    """

    image: str
    classes: tuple[str, ...]
    labels: Int64[np.ndarray, "h w"]

    def shares(self) -> dict[str, float]:
        """The share of the pixels that each class has, in [0, 1], the largest first; no zeros."""
        counts = np.bincount(self.labels.reshape(-1), minlength=len(self.classes))
        order = np.argsort(-counts, kind="stable")
        return {self.classes[i]: float(counts[i] / self.labels.size) for i in order if counts[i]}

    def label_image(self) -> Image.Image:
        """The classes as intensities, with the colours of `drawn` as a palette up to 256."""
        if len(self.classes) > 256:
            return Image.fromarray(self.labels.astype(np.int32))
        image = Image.fromarray(self.labels.astype(np.uint8)).convert("L")
        image.putpalette(class_colours(len(self.classes)).tobytes())
        return image

    def drawn(self, opacity: float = 0.6) -> Image.Image:
        """The picture below its classes' colours.

        Args:
            opacity: of the colours, in [0, 1].
        """
        colours = Image.fromarray(class_colours(len(self.classes))[self.labels])
        return Image.blend(read_image(self.image), colours, opacity)


def segment_images(
    trained: TrainedDense[Segmenter],
    paths: Sequence[str | Path],
    inference: SegmentInference = WHOLE_IMAGE,
    on_done: Callable[[int, int], None] = lambda *_: None,
) -> Iterator[SegmentedImage]:
    """The classes of every image file, one after the other.

    Args:
        trained: on its device.
        paths: image files, of any sizes.
        inference: how to look at them.
        on_done: told how many of how many images are done.

    Raises:
        ImageError: a file is no image; nothing is yielded before all are known to be.
    """
    files = [Path(path) for path in paths]
    require_images(files)
    transform, device = trained.card.transform(), next(trained.model.parameters()).device
    for number, file in enumerate(files, start=1):
        picture = read_image(file)
        empty = torch.zeros(picture.height, picture.width, dtype=torch.int64)
        image = transform(picture, {"semantic": empty})[0].to(device)
        labels = segment(trained.model, image[None], inference)[0]
        yield SegmentedImage(str(file), trained.card.classes, labels)
        on_done(number, len(files))
