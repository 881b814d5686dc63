"""Readings of DAT's and DAT++'s attentions: deformable, in windows, in neighbourhoods."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float
from torch import Tensor

from foveal.models.dat import DeformableAttention
from foveal.models.dat_local import NeighborhoodAttention, WindowAttention
from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.reading import AttentionReading, arrays_of


@dataclass(frozen=True, eq=False)
class DeformableAttentionReading(AttentionReading):
    """Deformable attention (DAT, DAT++). Points are (y, x) in [−1, 1], the middle of the map's
    first and last cells being −1 and 1; past that they are off the map.

    Attributes:
        references: the even grid that points start from.
        offsets, positions: where each group moves them by and to.
        samples: the map at the positions, groups of channels side by side.
        keys, values: made of the samples.
        attention: sums to 1 over the last axis, points in row-major order.
    """

    references: Float[np.ndarray, "hk wk 2"]
    offsets: Float[np.ndarray, "b groups hk wk 2"]
    positions: Float[np.ndarray, "b groups hk wk 2"]
    samples: Float[np.ndarray, "b c hk wk"]
    keys: Float[np.ndarray, "b heads n d"]
    values: Float[np.ndarray, "b heads n d"]
    attention: Float[np.ndarray, "b heads h w n"]
    kind = "deformable attention"

    @classmethod
    def of(cls, mixer: DeformableAttention, x: Float[Tensor, "b c h w"]) -> Self:
        """See `Reading.of`."""
        arrays = arrays_of(mixer, x)
        weights = arrays.pop("attention")
        weights = weights.reshape(*weights.shape[:2], *x.shape[2:], weights.shape[-1])
        return cls(**arrays, attention=weights)

    @property
    def size(self) -> tuple[int, int]:
        """See `AttentionReading.size`."""
        return self.attention.shape[2], self.attention.shape[3]

    @property
    def key_importance(self) -> Float[np.ndarray, "b heads n"]:
        """The attention that each point gets from all queries on average; sums to 1."""
        return self.attention.mean((2, 3))

    def on_image(self, points: Float[np.ndarray, "*shape 2"]) -> Float[np.ndarray, "*shape 2"]:
        """Points as fractions of the image, (0, 0) its top left and (1, 1) its bottom right corner.

        Points at (0, 0) of a map of one cell lie in its middle.
        """
        size = np.array(self.size)
        return ((points + 1) / 2 * (size - 1) + 0.5) / size

    def points(self, image: int = 0) -> Float[np.ndarray, "heads n 2"]:
        """Where every head samples, as fractions of the image."""
        groups, heads = self.positions.shape[1], self.attention.shape[1]
        moved = self.on_image(self.positions[image]).reshape(groups, -1, 2)
        return moved.repeat(heads // groups, 0)

    def attention_of(self, y: int, x: int, image: int = 0) -> QueryAttention:
        """See `AttentionReading.attention_of`."""
        y, x = self.cell(y, x)
        mass = self.attention[image, :, y, x]
        return QueryAttention((y, x), self.size, points=self.points(image), mass=mass)


@dataclass(frozen=True, eq=False)
class NeighborhoodAttentionReading(AttentionReading):
    """Neighbourhood attention (DAT++).

    Attributes:
        attention: of the k × k nearest positions in row-major order, sums to 1.
        values: of the map, zero-padded to at least k a side.
    """

    attention: Float[np.ndarray, "b heads h w k2"]
    values: Float[np.ndarray, "b hp wp heads d"]
    kind = "neighbourhood attention"

    @classmethod
    def of(cls, mixer: NeighborhoodAttention, x: Float[Tensor, "b c h w"]) -> Self:
        """See `Reading.of`."""
        return cls(**arrays_of(mixer, x))

    @property
    def size(self) -> tuple[int, int]:
        """See `AttentionReading.size`."""
        return self.attention.shape[2], self.attention.shape[3]

    def attention_of(self, y: int, x: int, image: int = 0) -> QueryAttention:
        """See `AttentionReading.attention_of`."""
        y, x = self.cell(y, x)
        weights = self.attention[image, :, y, x]
        side = round(weights.shape[-1] ** 0.5)
        # At the border the neighbourhood is pushed inward.
        padded = self.values.shape[1:3]
        corner = tuple(
            min(max(at - side // 2, 0), n - side) for at, n in zip((y, x), padded, strict=True)
        )
        window = weights.reshape(-1, side, side)
        return QueryAttention((y, x), self.size, window=window, corner=(corner[0], corner[1]))


@dataclass(frozen=True, eq=False)
class WindowAttentionReading(AttentionReading):
    """Attention in windows, or shifted windows (DAT).

    Attributes:
        attention: within each window of the padded map rolled by −shift, sums to 1 over the last
            axis; t = side² positions in row-major order.
        values: of the zero-padded map.
        map_size: rows and columns of the map.
        side: of a window, in cells.
        shift: in cells.
    """

    attention: Float[np.ndarray, "b windows heads t t"]
    values: Float[np.ndarray, "b hp wp heads d"]
    map_size: tuple[int, int]
    side: int
    shift: int
    kind = "window attention"

    @classmethod
    def of(cls, mixer: WindowAttention, x: Float[Tensor, "b c h w"]) -> Self:
        """See `Reading.of`."""
        size = (x.shape[2], x.shape[3])
        return cls(**arrays_of(mixer, x), map_size=size, side=mixer.window_size, shift=mixer.shift)

    @property
    def size(self) -> tuple[int, int]:
        """See `AttentionReading.size`."""
        return self.map_size

    def attention_of(self, y: int, x: int, image: int = 0) -> QueryAttention:
        """See `AttentionReading.attention_of`.

        What the roll brings into a window from the far side of the map gets no weight, so that
        the window can be shown where the query is.
        """
        y, x = self.cell(y, x)
        rows, columns = self.values.shape[1:3]
        row, column = (y - self.shift) % rows, (x - self.shift) % columns
        in_y, in_x = row % self.side, column % self.side
        window = row // self.side * (columns // self.side) + column // self.side
        weights = self.attention[image, window, :, in_y * self.side + in_x]
        corner = (y - in_y, x - in_x)
        weights = weights.reshape(-1, self.side, self.side)
        return QueryAttention((y, x), self.size, window=weights, corner=corner)
