"""The effective receptive field: from where in the image one position of the last map draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.errors import FovealError, OptionError
from foveal.tools.explain.features import (
    image_size,
    last_map,
    placed_as,
    require_gradient,
    undisturbed,
)

# Where blocks would show: strides, and windows of 7 patches of 4 pixels. Coarser grids have so few
# lines in a usual image that chance would decide.
PERIODS = (4, 8, 16, 28, 32)


@dataclass(frozen=True)
class Blockiness:
    """How much a field is made of blocks.

    Attributes:
        period: side of the blocks in pixels.
        score: jumps across their edges over the jumps around them; 1 for a field without blocks.
    """

    period: int
    score: float


@dataclass(frozen=True)
class ReceptiveField:
    """The effective receptive field of the centre of a network's last map.

    Attributes:
        contributions: of each pixel (H W), float64, at least 0, with sum 1.
        num_images: over which they are averaged.
        map_size: rows and columns of the last map.
    """

    contributions: Float[np.ndarray, "H W"]
    num_images: int
    map_size: tuple[int, int]

    @property
    def centre(self) -> tuple[float, float]:
        """Row and column, in pixels, of the middle of the patch that the position stands for.

        Of h rows it is row h // 2, counted from 0: the middle one of an odd number, the lower one
        of the middle two of an even number, (h // 2 + 1/2) · H / h − 1/2 in pixels; so for columns.
        """
        (height, width), (rows, columns) = self.contributions.shape, self.map_size
        return _middle(height, rows), _middle(width, columns)

    def high_contribution_side(self, share: float) -> int:
        """Side, in pixels, of the smallest square around the centre that holds the share.

        Args:
            share: of all contributions, in (0, 1].
        """
        return int(2 * self._reach(share) + 1)

    def high_contribution_area(self, share: float) -> float:
        """Area of the smallest square around the centre that holds the share, over the image's.

        A square that reaches beyond the image counts with the pixels that are in it.

        Args:
            share: of all contributions, in (0, 1].
        """
        return float((self._distances() <= self._reach(share)).mean())

    def blockiness(self, period: int) -> float:
        """How much larger jumps between pixels are across the lines of a grid than beside them.

        With t = log(1 + H·W·contribution), J_j = |t_j − t_(j − 1)| summed along the other axis, and
        the lines j = period, 2 · period, … of both axes:

            Σ J_j over the lines  /  Σ (J_(j−2) + J_(j−1) + J_(j+1) + J_(j+2)) / 4 over the lines

        (J_(j−1) and J_(j+1) alone for periods of 2 and 3.) About 1 for a field without blocks,
        smooth or noisy; infinity for one that is constant beside the lines. Noise hides blocks:
        compare fields over equally many images.

        Args:
            period: pixels from line to line, from 2 to less than the longer side.
        """
        longer = max(self.contributions.shape)
        if not 2 <= period < longer:
            raise OptionError(
                f"A period of blocks is from 2 to {longer - 1} pixels in this field, got {period}."
            )
        # In units of an even spread: what is far below it counts little, what is far above it is
        # damped, and there is no constant to choose.
        spread = np.log1p(self.contributions * self.contributions.size)
        across, around = np.sum([_jumps(spread, period), _jumps(spread.T, period)], axis=0)
        if around:
            return float(across / around)
        return inf if across else 1.0

    def strongest_blockiness(self, periods: Sequence[int] = PERIODS) -> Blockiness:
        """The blocks that show most, and how much.

        The lines of a coarse grid are also those of finer ones, so that among scores within a
        tenth of the highest the finest grid's is given.

        Args:
            periods: to choose from; those that do not fit the image are left out.
        """
        longer = max(self.contributions.shape)
        scores = [Blockiness(p, self.blockiness(p)) for p in periods if 2 <= p < longer]
        if not scores:
            raise OptionError(
                f"None of the periods {tuple(periods)} fits a field of {longer} pixels: give one "
                f"from 2 to {longer - 1}."
            )
        enough = 0.9 * max(blocks.score for blocks in scores)
        return min((b for b in scores if b.score >= enough), key=lambda blocks: blocks.period)

    def _distances(self) -> Float[np.ndarray, "H W"]:
        """Half the side of the square around the centre on whose edge a pixel lies."""
        (height, width), (y, x) = self.contributions.shape, self.centre
        rows, columns = np.abs(np.arange(height) - y), np.abs(np.arange(width) - x)
        return np.maximum(rows[:, None], columns)

    def _reach(self, share: float) -> float:
        if not 0 < share <= 1:
            raise OptionError(f"A share of the contributions is above 0 and up to 1, got {share}.")
        distances, rings = np.unique(self._distances(), return_inverse=True)
        held = np.cumsum(np.bincount(rings.ravel(), self.contributions.ravel()))
        # Sums are exact to rounding alone: a share of 1 ends where the last contribution is.
        return float(distances[np.argmax(held >= share * held[-1] * (1 - 1e-12))])


def effective_receptive_field(
    model: nn.Module,
    images: Float[Tensor, "n c H W"],
    *,
    random_signs: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> ReceptiveField:
    """How much each pixel moves the centre of the last map (Luo et al. 2016).

    With F the last map of c channels (`last_map`), (y₀, x₀) its centre and I an image, a pixel
    contributes the mean over images of Σ_i |∂(Σ_k s_k F_k(y₀, x₀)) / ∂I_i|, over the sum of all.
    Signs s_k = ±1 are drawn for each image: a plain sum, s = 1, is constant behind a layer norm
    that is not trained, and no gradient comes through it. No part of the map is cut off at 0.

    Args:
        model: any image model; computes in evaluation mode and is left as it is.
        images: prepared as the network takes them; computed one at a time.
        random_signs: False for the plain sum.
        seed: of the signs.
        progress: called after each image with the number done and of all.

    Raises:
        FovealError: there is no map, or its centre does not depend on the image.
    """
    height, width = image_size(images)
    total, map_size = np.zeros((height, width)), (1, 1)
    signs = torch.Generator().manual_seed(seed)
    with undisturbed(model):
        for number in range(len(images)):
            # A leaf of its own, which may also come from inference mode.
            image = placed_as(model, images[number : number + 1]).detach().clone()
            features = last_map(model, image.requires_grad_())
            map_size = (features.shape[2], features.shape[3])
            centre = features[0, :, map_size[0] // 2, map_size[1] // 2]
            if random_signs:
                draw = 2 * torch.randint(2, centre.shape, generator=signs) - 1
                centre = centre * draw.to(centre)
            require_gradient(centre, model)
            total += _sensitivity(centre.sum(), image)
            if progress is not None:
                progress(number + 1, len(images))
    if not np.isfinite(total).all() or not total.any():
        what = "not a finite number" if total.any() else "zero everywhere"
        raise FovealError(
            f"The gradient of the last map's centre is {what}, so {type(model).__name__} has no "
            "receptive field on these images; look at its weights and at the images' values."
        )
    return ReceptiveField(total / total.sum(), len(images), map_size)


def _sensitivity(value: Tensor, image: Float[Tensor, "1 c h w"]) -> Float[np.ndarray, "h w"]:
    (gradient,) = torch.autograd.grad(value, image, allow_unused=True, materialize_grads=True)
    return gradient[0].double().abs().sum(0).cpu().numpy()


def _middle(pixels: int, cells: int) -> float:
    """The middle of cell `cells // 2`, to half a pixel, so that squares have whole sides."""
    return round(2 * (cells // 2 + 0.5) * pixels / cells) / 2 - 0.5


def _jumps(values: Float[np.ndarray, "h w"], period: int) -> tuple[float, float]:
    """Jumps along the rows: summed across the lines, and so the mean jump beside each line."""
    jumps = np.abs(np.diff(values, axis=1)).sum(0)
    # Close by, so that the slope of a smooth field is the same there, and clear of the next line.
    lines, reach = range(period - 1, len(jumps), period), min(2, period // 2)
    across, around = 0.0, 0.0
    for line in lines:
        near = np.delete(jumps, line)[max(line - reach, 0) : line + reach]
        if len(near):
            across, around = across + jumps[line], around + near.mean()
    return across, around
