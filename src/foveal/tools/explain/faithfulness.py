"""Does a map show what the network goes by? Insertion and deletion (Petsiuk et al. 2018)."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
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

# A random map has as many cells a side as a usual last map, so that it is as smooth as one.
RANDOM_CELLS = 7


@dataclass(frozen=True)
class Faithfulness:
    """How the probability of a class follows the pixels that a map holds to be important.

    Attributes:
        fractions: of the pixels that are changed (s), from 0 to 1.
        insertion: probability of the target (b s), the most important pixels of the image put into
            the baseline first.
        deletion: the same (b s), these pixels of the image replaced by the baseline first.
        random_insertion: of each of m smooth random maps (b m s).
        random_deletion: of the same random maps (b m s).
        targets: the class of each image (b).
        baseline: what stands for a deleted pixel.
    """

    fractions: Float[np.ndarray, "s"]
    insertion: Float[np.ndarray, "b s"]
    deletion: Float[np.ndarray, "b s"]
    random_insertion: Float[np.ndarray, "b m s"]
    random_deletion: Float[np.ndarray, "b m s"]
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
        """Mean insertion area of the random maps."""
        return self._area(self.random_insertion).mean(1)

    @property
    def random_deletion_area(self) -> Float[np.ndarray, "b"]:
        """Mean deletion area of the random maps."""
        return self._area(self.random_deletion).mean(1)

    @property
    def random_insertion_spread(self) -> Float[np.ndarray, "b"]:
        """Standard deviation of the random maps' insertion areas."""
        return self._area(self.random_insertion).std(1, ddof=1)

    @property
    def random_deletion_spread(self) -> Float[np.ndarray, "b"]:
        """Standard deviation of the random maps' deletion areas."""
        return self._area(self.random_deletion).std(1, ddof=1)

    @property
    def num_random_beaten(self) -> Int[np.ndarray, "b"]:
        """Than how many of the m random maps the map is better by both areas."""
        inserts = self.insertion_area[:, None] > self._area(self.random_insertion)
        deletes = self.deletion_area[:, None] < self._area(self.random_deletion)
        return (inserts & deletes).sum(1)

    @property
    def beats_chance(self) -> Bool[np.ndarray, "b"]:
        """For each image, whether both areas are better than those of every random map.

        Of maps drawn as the random ones are, at most 1 in m + 2 is.
        """
        return self.num_random_beaten == self.random_insertion.shape[1]

    def _area(self, curves: Float[np.ndarray, "*b s"]) -> Float[np.ndarray, "*b"]:
        heights = (curves[..., 1:] + curves[..., :-1]) / 2
        return (heights * np.diff(self.fractions)).sum(-1)


def insertion_deletion(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    maps: Float[np.ndarray, "b h w"],
    targets: Targets,
    *,
    steps: int = 32,
    baseline: Baseline = "blur",
    num_random_maps: int = 8,
    batch_size: int = 32,
    seed: int = 0,
) -> Faithfulness:
    """Curves of insertion and deletion of each image's map, beside those of random maps.

    Pixels of equal importance come in a random order. A random map is uniform noise on 7 × 7 cells,
    enlarged bilinearly: single pixels at random would tear the image into noise, which no map does.
    After each comes its opposite, whose order is the reverse and whose curves cost nothing.

    Args:
        model: any classifier; computes in evaluation mode and is left as it is.
        images: prepared as the network takes them.
        maps: importance of each pixel, of any scale.
        targets: a class for all images or one for each.
        steps: of equal shares of the pixels; (2 + num_random_maps) · (steps + 1) passes an image.
        baseline: the image blurred (a Gaussian with σ of a twentieth of the shorter side), its
            mean a channel, or zero, which after the usual normalisation is ImageNet's mean.
        num_random_maps: an even number, from 2 up.
        batch_size: images at a time.
        seed: of the random maps and of the order of equal pixels.

    Raises:
        FovealError: maps of another shape or not finite, no classifier, a target that it has not.
    """
    height, width = image_size(images)
    _check_maps(maps, (len(images), height, width))
    _check_options(steps, height * width, baseline, num_random_maps, batch_size)
    chance = np.random.default_rng(seed)
    # How many pixels are changed after each step.
    counts = np.linspace(0, height * width, steps + 1).round().astype(np.int64)
    curves: list[np.ndarray] = []
    with undisturbed(model), torch.no_grad():
        images = placed_as(model, images)
        classes = check_targets(targets, len(images), class_logits(model, images[:1]).shape[1])
        for image, importance, target in zip(images, maps, classes, strict=True):
            drawn = (_random_map(chance, height, width) for _ in range(num_random_maps // 2))
            orders = [_ranks(shown, chance) for shown in (importance, *drawn)]
            mixtures = _mixtures((_blank(image, baseline), image), orders, counts, batch_size)
            curves.append(_probabilities(model, mixtures, int(target)))
    # Of each image and order the insertion, then the deletion.
    table = np.stack(curves).reshape(len(images), -1, 2, len(counts))
    pairs = _with_opposites(table[:, 1:])
    return Faithfulness(
        fractions=counts / (height * width),
        insertion=table[:, 0, 0],
        deletion=table[:, 0, 1],
        random_insertion=pairs[:, :, 0],
        random_deletion=pairs[:, :, 1],
        targets=classes,
        baseline=baseline,
    )


def _with_opposites(
    curves: Float[np.ndarray, "b orders 2 s"],
) -> Float[np.ndarray, "b orders_and_opposites 2 s"]:
    """After each order's insertion and deletion those of the reverse order, which follow from them.

    What the reverse order inserts first is what the order deletes last.
    """
    reverse = curves[:, :, ::-1, ::-1]
    return np.stack([curves, reverse], 2).reshape(len(curves), -1, *curves.shape[2:])


def _probabilities(
    model: nn.Module, batches: Iterable[Float[Tensor, "n c h w"]], target: int
) -> Float[np.ndarray, "s"]:
    logits = torch.cat([class_logits(model, batch) for batch in batches])
    return logits.double().softmax(1)[:, target].cpu().numpy()


def _check_maps(maps: np.ndarray, shape: tuple[int, int, int]) -> None:
    if maps.shape != shape:
        raise FovealError(
            f"Every pixel has its importance: maps of shape {shape}, one an image, got "
            f"{tuple(maps.shape)}; enlarge smaller maps to the image's size."
        )
    if not np.isfinite(maps).all():
        raise FovealError("Importance is a finite number: the maps hold NaN or infinity.")


def _check_options(
    steps: int, num_pixels: int, baseline: str, num_random_maps: int, batch_size: int
) -> None:
    if baseline not in get_args(Baseline):
        raise OptionError(
            f"A baseline is one of {', '.join(get_args(Baseline))}; got {baseline!r}."
        )
    if not 1 <= steps <= num_pixels:
        raise OptionError(f"Steps are from 1 to the {num_pixels} pixels of the image; got {steps}.")
    if num_random_maps < 2 or num_random_maps % 2:
        raise OptionError(
            "Random maps come in pairs of opposites: num_random_maps is an even number from 2 up; "
            f"got {num_random_maps}."
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
    ends: tuple[Float[Tensor, "c h w"], Float[Tensor, "c h w"]],
    orders: Sequence[Int[np.ndarray, "h w"]],
    counts: np.ndarray,
    batch_size: int,
) -> Iterator[Float[Tensor, "n c h w"]]:
    """Batches in which, for each order, one end turns into the other, and then back."""
    mixtures = (
        torch.where(ranks < count, then, first)
        for ranks in (torch.from_numpy(order).to(ends[0].device) for order in orders)
        for first, then in (ends, ends[::-1])
        for count in counts.tolist()
    )
    while batch := list(islice(mixtures, batch_size)):
        yield torch.stack(batch)
