"""Does a map show what the network goes by? Insertion and deletion (Petsiuk et al. 2018)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.transforms.v2.functional import gaussian_blur

from foveal.errors import FovealError, OptionError
from foveal.tools.explain.class_activation import Targets, check_targets, class_logits
from foveal.tools.explain.features import image_size, placed_as, undisturbed

Baseline = Literal["blur", "mean", "zero"]

# A map of chance has as many cells a side as a usual last map, so that it is as smooth as one.
RANDOM_CELLS = 7


@dataclass(frozen=True)
class Faithfulness:
    """How the probability of a class follows the pixels that a map holds to be important.

    Attributes:
        fractions: of the pixels that are changed (s), from 0 to 1.
        insertion: probability of the target (b s), the most important pixels of the image put into
            the baseline first.
        deletion: the same (b s), these pixels of the image replaced by the baseline first.
        random_insertion: of a map of chance (b s).
        random_deletion: of the same map of chance (b s).
        targets: the class of each image (b).
        baseline: what stands for a deleted pixel.
    """

    fractions: Float[np.ndarray, "s"]
    insertion: Float[np.ndarray, "b s"]
    deletion: Float[np.ndarray, "b s"]
    random_insertion: Float[np.ndarray, "b s"]
    random_deletion: Float[np.ndarray, "b s"]
    targets: Int[np.ndarray, "b"]
    baseline: str

    @property
    def insertion_area(self) -> Float[np.ndarray, "b"]:
        """Area under the insertion curve (trapezoids), in [0, 1]: the higher the better."""
        return self._area(self.insertion)

    @property
    def deletion_area(self) -> Float[np.ndarray, "b"]:
        """Area under the deletion curve (trapezoids), in [0, 1]: the lower the better."""
        return self._area(self.deletion)

    @property
    def random_insertion_area(self) -> Float[np.ndarray, "b"]:
        """Insertion area of the map of chance."""
        return self._area(self.random_insertion)

    @property
    def random_deletion_area(self) -> Float[np.ndarray, "b"]:
        """Deletion area of the map of chance."""
        return self._area(self.random_deletion)

    @property
    def beats_chance(self) -> Bool[np.ndarray, "b"]:
        """Whether both areas are better than those of the map of chance, for each image."""
        inserts = self.insertion_area > self.random_insertion_area
        return inserts & (self.deletion_area < self.random_deletion_area)

    def _area(self, curve: Float[np.ndarray, "b s"]) -> Float[np.ndarray, "b"]:
        heights = (curve[:, 1:] + curve[:, :-1]) / 2
        return (heights * np.diff(self.fractions)).sum(1)


def insertion_deletion(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    maps: Float[np.ndarray, "b h w"],
    targets: Targets,
    *,
    steps: int = 32,
    baseline: Baseline = "blur",
    batch_size: int = 32,
    seed: int = 0,
) -> Faithfulness:
    """Curves of insertion and deletion of each image's map, beside those of a map of chance.

    Pixels of equal importance come in a random order. The map of chance is uniform noise on
    7 × 7 cells, enlarged bilinearly: single pixels at random would tear the image into noise, which
    no map does.

    Args:
        model: any classifier; computes in evaluation mode and is left as it is.
        images: prepared as the network takes them.
        maps: importance of each pixel, of any scale.
        targets: a class for all images or one for each.
        steps: equal shares of the pixels, changed one after another; 4 · (steps + 1) passes.
        baseline: the image blurred (a Gaussian with σ of a twentieth of the shorter side), its
            mean a channel, or zero, which after the usual normalisation is ImageNet's mean.
        batch_size: images at a time.
        seed: of the map of chance and of the order of equal pixels.

    Raises:
        FovealError: maps of another shape or not finite, no classifier, a target that it has not.
    """
    height, width = image_size(images)
    _check(maps, (len(images), height, width), steps, baseline, batch_size)
    chance = np.random.default_rng(seed)
    # How many pixels are changed after each step.
    counts = np.linspace(0, height * width, steps + 1).round().astype(np.int64)
    curves: list[np.ndarray] = []
    with undisturbed(model), torch.no_grad():
        images = placed_as(model, images)
        num_classes = class_logits(model, images[:1]).shape[1]
        classes = check_targets(targets, len(images), num_classes)
        for image, importance, target in zip(images, maps, classes, strict=True):
            ends = _blank(image, baseline), image
            for shown in (importance, _random_map(chance, height, width)):
                ranks = torch.from_numpy(_ranks(shown, chance)).to(image.device)
                for first, then in (ends, ends[::-1]):
                    mixtures = _mixtures(first, then, ranks, counts, batch_size)
                    curves.append(_probabilities(model, mixtures, int(target)))
    # Images, then map and chance, then insertion and deletion.
    table = np.stack(curves).reshape(len(images), 4, len(counts))
    return Faithfulness(
        fractions=counts / (height * width),
        insertion=table[:, 0],
        deletion=table[:, 1],
        random_insertion=table[:, 2],
        random_deletion=table[:, 3],
        targets=classes,
        baseline=baseline,
    )


def _probabilities(
    model: nn.Module, batches: Iterable[Float[Tensor, "n c h w"]], target: int
) -> Float[np.ndarray, "s"]:
    logits = torch.cat([class_logits(model, batch) for batch in batches])
    return logits.double().softmax(1)[:, target].cpu().numpy()


def _check(
    maps: np.ndarray, shape: tuple[int, int, int], steps: int, baseline: str, batch_size: int
) -> None:
    if maps.shape != shape:
        raise FovealError(
            f"Every pixel has its importance: maps of shape {shape}, one an image, got "
            f"{tuple(maps.shape)}; enlarge smaller maps to the image's size."
        )
    if not np.isfinite(maps).all():
        raise FovealError("Importance is a finite number: the maps hold NaN or infinity.")
    if baseline not in get_args(Baseline):
        raise OptionError(
            f"A baseline is one of {', '.join(get_args(Baseline))}; got {baseline!r}."
        )
    if not 1 <= steps <= shape[1] * shape[2]:
        raise OptionError(
            f"Steps are from 1 to the {shape[1] * shape[2]} pixels of the image; got {steps}."
        )
    if batch_size < 1:
        raise OptionError(f"A batch has at least 1 image; got a batch_size of {batch_size}.")


def _blank(image: Float[Tensor, "c h w"], baseline: str) -> Float[Tensor, "c h w"]:
    """The image without what it shows."""
    if baseline == "zero":
        return torch.zeros_like(image)
    if baseline == "mean":
        return image.mean((1, 2), keepdim=True).expand_as(image)
    sigma = min(image.shape[1:]) / 20
    # Three standard deviations to each side, less than a sixth of the shorter side.
    return gaussian_blur(image, [2 * ceil(3 * sigma) + 1] * 2, [sigma] * 2)


def _random_map(chance: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "h w"]:
    noise = torch.from_numpy(chance.random((1, 1, RANDOM_CELLS, RANDOM_CELLS)))
    return interpolate(noise, (height, width), mode="bilinear")[0, 0].numpy()


def _ranks(importance: Float[np.ndarray, "h w"], chance: np.random.Generator) -> np.ndarray:
    """The place (h w) of each pixel in the order of falling importance, from 0."""
    falling = -importance.ravel().astype(np.float64)
    order = np.lexsort((chance.random(falling.size), falling))
    ranks = np.empty(falling.size, np.int64)
    ranks[order] = np.arange(falling.size)
    return ranks.reshape(importance.shape)


def _mixtures(
    first: Tensor, then: Tensor, ranks: Int[Tensor, "h w"], counts: np.ndarray, batch_size: int
) -> Iterator[Float[Tensor, "n c h w"]]:
    """Batches in which `first` turns into `then`, so many pixels by so many."""
    for start in range(0, len(counts), batch_size):
        changed = torch.from_numpy(counts[start : start + batch_size]).to(ranks.device)
        yield torch.where(ranks < changed[:, None, None, None], then, first)
