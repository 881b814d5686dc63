"""Where one query of an attention looks, and how concentrated it is."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class QueryAttention:
    """The weights of one query, by head; all parts together sum to 1 in each head.

    Attributes:
        query: row and column of the query, in cells of the map.
        size: rows and columns of the map.
        grid: weights of pooled cells that tile the map from its top left corner, or None.
        cell: rows and columns of the map that a cell of the grid covers; fractions where the
            pooling does not divide the map.
        window: weights of single cells of the map around the query, or None.
        corner: row and column of the window's first cell; parts of it may lie off the map.
        points: rows and columns of sampled points as fractions of the image, (0, 0) its top left
            corner and (1, 1) its bottom right one, or None; off the image outside that range.
        mass: weights of the points.
    """

    query: tuple[int, int]
    size: tuple[int, int]
    grid: Float[np.ndarray, "heads hk wk"] | None = None
    cell: tuple[float, float] = (1.0, 1.0)
    window: Float[np.ndarray, "heads kh kw"] | None = None
    corner: tuple[int, int] = (0, 0)
    points: Float[np.ndarray, "heads n 2"] | None = None
    mass: Float[np.ndarray, "heads n"] | None = None

    @property
    def num_heads(self) -> int:
        """Heads of the attention."""
        parts = (self.grid, self.window, self.mass)
        return next(len(part) for part in parts if part is not None)

    def on_map(self) -> Float[np.ndarray, "heads h w"]:
        """Weight of every cell of the map; a pooled cell's is spread evenly, a point's goes to the
        nearest cell. What lies off the map is left out."""
        h, w = self.size
        total = np.zeros((self.num_heads, h, w))
        if self.grid is not None:
            rows = _overlap(self.grid.shape[1], self.cell[0], h)
            columns = _overlap(self.grid.shape[2], self.cell[1], w)
            total += np.einsum("nab,ay,bx->nyx", self.grid, rows, columns)
        if self.window is not None:
            for index in np.ndindex(*self.window.shape[1:]):
                y, x = self.corner[0] + index[0], self.corner[1] + index[1]
                if 0 <= y < h and 0 <= x < w:
                    total[:, y, x] += self.window[:, *index]
        if self.points is not None and self.mass is not None:
            cells = np.floor(self.points * self.size).astype(int)
            inside = np.logical_and(self.points >= 0, self.points < 1).all(-1)
            head = np.arange(self.num_heads)[:, None].repeat(cells.shape[1], 1)[inside]
            np.add.at(total, (head, *cells[inside].T), self.mass[inside])
        return total

    def with_mean(self) -> "QueryAttention":
        """With the mean of the heads before them, where there are several of the same keys."""
        if self.num_heads == 1 or (
            self.points is not None and (self.points != self.points[:1]).any()
        ):
            return self
        return replace(
            self,
            grid=_led_by_mean(self.grid),
            window=_led_by_mean(self.window),
            points=_led_by_mean(self.points),
            mass=_led_by_mean(self.mass),
        )


def entropy(*weights: Float[np.ndarray, "*shape keys"]) -> Float[np.ndarray, "*shape"]:
    """−Σ p log p over the last axis of all parts of one softmax, in nats, from 0 to log keys."""
    return sum(-(p * np.log(np.where(p > 0, p, 1))).sum(-1) for p in weights)  # pyright: ignore


def _led_by_mean(weights: np.ndarray | None) -> np.ndarray | None:
    return None if weights is None else np.concatenate([weights.mean(0, keepdims=True), weights])


def _overlap(cells: int, reach: float, size: int) -> Float[np.ndarray, "cells size"]:
    """The share of each cell, `reach` positions long, that lies on each position of an axis."""
    start = np.arange(cells)[:, None] * reach
    position = np.arange(size)
    shared = np.minimum(start + reach, position + 1) - np.maximum(start, position)
    shared = shared.clip(0)
    # A ragged last cell averages over what there is of it.
    return shared / shared.sum(1, keepdims=True)
