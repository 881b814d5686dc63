"""What is exported: a network, what it puts out, and for which inputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal import __version__
from foveal.errors import FovealError, OptionError
from foveal.tools.commit import commit
from foveal.tools.trained import TrainedModel

# What an opened file does: image (b c h w) to its outputs.
Run = Callable[[Tensor], Sequence[np.ndarray]]

HEADS = ("classification", "pyramid")

# Of PyTorch's exporter: below, a last map of one cell is a case of its own for a convolution.
SMALLEST_DYNAMIC = 64


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What the file is to do.

    Attributes:
        head: "classification" for logits, or "pyramid" for the last map of every stage.
        image_size: height and width of the image that is traced.
        batch_size: images that are traced.
        dynamic: take any number of images from `smallest` pixels up; False for those sizes alone.
        preprocessing: take intensities in [0, 1] and normalise them inside; False for an input
            that is normalised already.
        bounded: with `dynamic`, up to twice the traced side and number of images, for formats that
            plan their memory beforehand.
        smallest: side in pixels that any size begins at; `subject_of` raises it for networks whose
            coarsest map would have a single cell.
    """

    head: Literal["classification", "pyramid"] = "classification"
    image_size: tuple[int, int] = (224, 224)
    batch_size: int = 2
    dynamic: bool = True
    preprocessing: bool = False
    bounded: bool = False
    smallest: int = SMALLEST_DYNAMIC

    @property
    def largest(self) -> tuple[int, int, int] | None:
        """The most images, height and width that the file takes; None for no bound."""
        if not self.bounded:
            return None
        return 2 * self.batch_size, 2 * self.image_size[0], 2 * self.image_size[1]

    @property
    def sizes(self) -> str:
        """The sizes that the file takes, in words."""
        if not self.dynamic:
            return "this size alone"
        if self.largest is None:
            return f"any size from {self.smallest} pixels"
        images, height, width = self.largest
        most = f"{height} × {width} pixels, up to {images} at a time"
        return f"any size from {self.smallest} to {most}"

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise OptionError(f"head is one of {', '.join(HEADS)}, got {self.head!r}.")
        least = self.smallest if self.dynamic else 32
        if min(self.image_size) < least:
            raise OptionError(
                f"An export{' of any size' if self.dynamic else ''} takes images from {least} "
                f"pixels a side up, got {self.image_size[0]} × {self.image_size[1]}; choose a "
                f"larger image size{', or --fixed for one alone' if self.dynamic else ''}."
            )
        if self.batch_size < (2 if self.dynamic else 1):
            # PyTorch's exporter takes a size of one for a constant.
            raise OptionError(
                f"An export of any batch size traces 2 images or more, got {self.batch_size}"
                f"{'; choose 2, or --fixed for one alone' if self.batch_size == 1 else ''}."
            )


class _Normalized(nn.Module):
    """`model((image − mean) / std)`, or `model(image)`, and its outputs as a tuple."""

    mean: Tensor
    std: Tensor

    def __init__(self, trained: TrainedModel, options: ExportOptions):
        super().__init__()
        self.model = trained.model
        self.is_pyramid = options.head == "pyramid"
        self.normalizes = options.preprocessing
        like = next(trained.model.parameters())
        for name in ("mean", "std"):
            values = getattr(trained.card.preprocessing, name)
            constant = torch.tensor(values, dtype=like.dtype, device=like.device)
            self.register_buffer(name, constant[:, None, None], persistent=False)

    def forward(self, image: Float[Tensor, "b c h w"]) -> tuple[Tensor, ...]:
        if self.normalizes:
            image = (image - self.mean) / self.std
        if self.is_pyramid:
            forward: Any = self.model.forward_intermediates
            return tuple(forward(image, intermediates_only=True))
        return (self.model(image),)


@dataclass(frozen=True, eq=False)
class Subject:
    """A network to be exported.

    Attributes:
        module: image (b c h w) to a tuple of outputs, in eval mode.
        outputs: their names.
        options: what the file is to do.
        metadata: what travels in the file, as text by name.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    options: ExportOptions
    metadata: Mapping[str, str] = field(repr=False)

    @property
    def example(self) -> Float[Tensor, "b c h w"]:
        """An image of the size that is traced."""
        return self.image(self.options.batch_size, *self.options.image_size)

    def image(self, batch: int, height: int, width: int) -> Float[Tensor, "b c h w"]:
        """A random image, the same at each call, on the network's device."""
        channels = len(self.metadata["mean"].split(","))
        generator = torch.Generator().manual_seed(0)
        drawn = torch.rand(batch, channels, height, width, generator=generator)
        like = next(self.module.parameters())
        scaled = drawn if self.options.preprocessing else (drawn - 0.5) * 4
        return scaled.to(like)


def subject_of(trained: TrainedModel, options: ExportOptions) -> Subject:
    """A trained model as something to be exported.

    Raises:
        FovealError: it has no classifier, or no maps, to put out, or needs larger images to be
            exported for any size.
    """
    model, card = trained.model.eval(), trained.card
    # A tracer takes a side of one for a constant.
    smallest = max(SMALLEST_DYNAMIC, 2 * getattr(model, "coarsest_cell", 1))
    options = replace(options, smallest=smallest)
    if options.head == "classification":
        if not card.classes:
            raise FovealError(
                f"{card.model} has no classifier to export; --head pyramid exports its maps."
            )
        outputs: tuple[str, ...] = ("logits",)
    else:
        if not hasattr(model, "forward_intermediates"):
            raise FovealError(f"{card.model} has no pyramid of maps; leave --head out.")
        info: Any = getattr(model, "feature_info", [])
        outputs = tuple(f"stage_{i}" for i in range(1, len(info) + 1))
    return Subject(
        _Normalized(trained, options).eval(), outputs, options, _metadata(trained, options)
    )


def _metadata(trained: TrainedModel, options: ExportOptions) -> dict[str, str]:
    card, preprocessing = trained.card, trained.card.preprocessing
    return {
        "model": card.model,
        "weights": trained.source,
        "head": options.head,
        "classes": "\n".join(card.classes),
        "image_size": ",".join(str(side) for side in options.image_size),
        "sizes": options.sizes,
        "input": "intensities in [0, 1]" if options.preprocessing else "normalised",
        "mean": ",".join(str(value) for value in preprocessing.mean),
        "std": ",".join(str(value) for value in preprocessing.std),
        "crop_pct": str(preprocessing.crop_pct),
        "interpolation": preprocessing.interpolation,
        "foveal": __version__,
        "commit": commit() or "",
        "torch": str(torch.__version__),
    }
