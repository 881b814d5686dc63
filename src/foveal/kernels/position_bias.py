"""Log-spaced continuous position bias of TransNeXt, evaluated once per displacement.

The bias of query (y, x) and key cell (a, b) is an MLP of their displacement alone. Displacements
are multiples of half a pixel, of which a map has far fewer than pairs of query and key: the MLP is
evaluated on a grid T of them, and B[h, y, x, a, b] = T[rows[y, a], columns[x, b], h].
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn import functional as F

from foveal.kernels.chunks import CACHED_BYTES, row_chunks
from foveal.kernels.tables import is_frozen, kept, table


class BiasMLP(NamedTuple):
    """Weights of the MLP 2 → hidden → heads, float32 or better; it reads (row, column)."""

    weight1: Float[Tensor, "hidden 2"]
    bias1: Float[Tensor, " hidden"]
    weight2: Float[Tensor, "heads hidden"]
    bias2: Float[Tensor, " heads"]


class LookedUpBias(NamedTuple):
    """B[h, y, x, a, b] = values[rows[y, a], columns[x, b], h]."""

    values: Float[Tensor, "r c heads"]
    rows: Int[Tensor, "h hp"]
    columns: Int[Tensor, "w wp"]

    def of_rows(self, start: int, stop: int) -> Float[Tensor, "heads rows w hp wp"]:
        """The bias of the queries in rows `start` … `stop` − 1."""
        rows = self.rows[start:stop, None, :, None] * self.values.shape[1]
        # An embedding has a fast backward and needs no view whose shape export would guard.
        index = rows + self.columns[None, :, None, :]
        return F.embedding(index, self.values.flatten(0, 1)).permute(4, 0, 1, 2, 3)


class ResizedBias(NamedTuple):
    """The bias at another number of queries; each reads `values` between two rows and columns."""

    values: Float[Tensor, "heads s1 s2 hp wp"]
    rows: Float[Tensor, " h"]
    columns: Float[Tensor, " w"]

    def of_rows(self, start: int, stop: int) -> Float[Tensor, "heads rows w hp wp"]:
        """The bias of the queries in rows `start` … `stop` − 1."""
        return read_between(read_between(self.values, 1, self.rows[start:stop]), 2, self.columns)


class DenseBias(NamedTuple):
    """The bias of every pair of query and key."""

    values: Float[Tensor, "heads h w hp wp"]

    def of_rows(self, start: int, stop: int) -> Float[Tensor, "heads rows w hp wp"]:
        """The bias of the queries in rows `start` … `stop` − 1."""
        return self.values[:, start:stop]


PositionBias = LookedUpBias | ResizedBias | DenseBias

# A frozen bias is kept for every pair where that takes no more.
DENSE_BYTES = 4 * 2**20


class LogSpacedBias(NamedTuple):
    """B for a map of any size, made where it is used: from weights few, at a size many numbers.

    Attributes:
        mlp: the weights.
        pretrain_side: of the map at pretraining.
        pretrain_cells: side of the grid of keys at pretraining, to resize its bias (interpolation);
            None for the MLP at the map's own displacements (extrapolation).
    """

    mlp: BiasMLP
    pretrain_side: int
    pretrain_cells: int | None = None

    def at(self, size: Sequence[int], cells: Sequence[int]) -> PositionBias:
        """The bias between `size` queries and `cells` keys, rows and columns."""
        sides = ((size[0], size[1]), (cells[0], cells[1]))
        weight = self.mlp.weight1
        pairs = self.mlp.weight2.shape[0] * prod(size) * prod(cells)
        if is_frozen(weight) and pairs * weight.element_size() <= DENSE_BYTES:
            name = ("every pair", *sides, *self[1:])
            return DenseBias(
                kept(weight, name, lambda: self._made(*sides).of_rows(0, size[0]).contiguous())
            )
        return self._made(*sides)

    def _made(self, size: tuple[int, int], cells: tuple[int, int]) -> PositionBias:
        if self.pretrain_cells is None:
            return extrapolated_bias(self.mlp, size, cells, self.pretrain_side)
        return interpolated_bias(self.mlp, size, cells, self.pretrain_side, self.pretrain_cells)


def extrapolated_bias(
    mlp: BiasMLP, size: tuple[int, int], cells: tuple[int, int], pretrain_side: int
) -> LookedUpBias:
    """The bias of a map from the MLP at the map's own displacements.

    Args:
        mlp: the MLP's weights.
        size: H and W of the queries.
        cells: rows and columns of the grid of keys, each the mean position of an adaptive average.
        pretrain_side: of the map at pretraining; displacements are relative to it.
    """
    dtype, device = mlp.weight1.dtype, mlp.weight1.device
    rows, columns = (
        displacements(n, m, pretrain_side, dtype, device) for n, m in zip(size, cells, strict=True)
    )
    return LookedUpBias(
        kept(
            mlp.weight1,
            ("displacements", size, cells, pretrain_side),
            lambda: mlp_on_grid(mlp, rows, columns),
        ),
        displacement_index(size[0], cells[0], device),
        displacement_index(size[1], cells[1], device),
    )


def interpolated_bias(
    mlp: BiasMLP,
    size: tuple[int, int],
    cells: tuple[int, int],
    pretrain_side: int,
    pretrain_cells: int,
) -> ResizedBias:
    """The bias of the map at pretraining, resized bilinearly over the keys and over the queries.

    Args:
        mlp, size, cells, pretrain_side: as for `extrapolated_bias`.
        pretrain_cells: side of the grid of keys at pretraining.
    """
    dtype, device = mlp.weight1.dtype, mlp.weight1.device
    side = (pretrain_side, pretrain_side)
    trained = extrapolated_bias(mlp, side, (pretrain_cells, pretrain_cells), pretrain_side)
    values = trained.of_rows(0, pretrain_side)
    for dim, keys in enumerate(cells, start=3):
        values = read_between(values, dim, bilinear_source(pretrain_cells, keys, dtype, device))
    rows, columns = (bilinear_source(pretrain_side, n, dtype, device) for n in size)
    return ResizedBias(values, rows, columns)


def read_between(x: Tensor, dim: int, positions: Float[Tensor, " n"]) -> Tensor:
    """`x` at fractional positions along `dim`, linearly between its neighbours."""
    low = positions.floor().long()
    high = (low + 1).clamp(max=x.shape[dim] - 1)
    shape = [1] * x.ndim
    shape[dim] = -1
    weight = (positions - low).view(shape)
    return torch.lerp(x.index_select(dim, low), x.index_select(dim, high), weight)


def mlp_on_grid(
    mlp: BiasMLP, rows: Float[Tensor, " r"], columns: Float[Tensor, " c"]
) -> Float[Tensor, "r c heads"]:
    """The MLP at every pair of a row and a column coordinate."""
    # The first layer is linear, so its row and column parts are computed apart and added.
    of_rows = rows[:, None] * mlp.weight1[:, 0] + mlp.bias1
    of_columns = columns[:, None] * mlp.weight1[:, 1]
    limit = CACHED_BYTES if rows.device.type == "cpu" else None
    row_bytes = 2 * of_columns.numel() * of_columns.element_size()
    chunks = row_chunks(rows.shape[0], row_bytes, limit)
    if len(chunks) > 1 and not torch.is_grad_enabled():
        # Small results kept between large temporaries would leave holes in memory.
        values = of_rows.new_empty(rows.shape[0], columns.shape[0], mlp.bias2.shape[0])
        for start, stop in chunks:
            values[start:stop] = _second_layer(mlp, of_rows[start:stop], of_columns)
        return values
    parts = [_second_layer(mlp, of_rows[start:stop], of_columns) for start, stop in chunks]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _second_layer(mlp: BiasMLP, of_rows: Tensor, of_columns: Tensor) -> Tensor:
    return F.linear((of_rows[:, None] + of_columns).relu_(), mlp.weight2, mlp.bias2)


def _on_whole_pixels(size: int, cells: int) -> bool:
    """Whether equal cells make all displacements of an axis whole pixels apart from each other."""
    return statically_known_true(size % cells == 0)


@table
def displacement_index(size: int, cells: int, device: torch.device) -> Tensor:
    """(size, cells): where on the grid of `displacements` each query and key cell find theirs."""
    query, cell = torch.arange(size, device=device)[:, None], torch.arange(cells, device=device)
    if _on_whole_pixels(size, cells):
        stride = size // cells
        return query - cell * stride + (cells - 1) * stride
    start, end = cell * size // cells, ((cell + 1) * size + cells - 1) // cells
    return 2 * query - (start + end - 1) + 2 * size - 2


@table
def displacements(
    size: int, cells: int, pretrain_side: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The displacements along one axis that queries can have from key cells, log-spaced.

    In whole pixels if all cells are alike, else in half pixels. Log-spaced: Δ of the pretraining
    map's extent, times 8, becomes sign(Δ)·log₂(|Δ| + 1) / log₂ 8.
    """
    if _on_whole_pixels(size, cells):
        stride = size // cells
        last = (cells - 1) * stride
        doubled = 2 * (torch.arange(size + last, device=device) - last) - (stride - 1)
    else:
        doubled = torch.arange(4 * size - 3, device=device) - (2 * size - 2)
    scaled = doubled.to(dtype) * (4 / max(pretrain_side - 1, 1))
    return scaled.sign() * (scaled.abs() + 1).log2() / 3


@table
def bilinear_source(size: int, resized: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(resized,): where bilinear resizing reads along one axis, corners not aligned."""
    target = torch.arange(resized, device=device, dtype=dtype)
    return ((target + 0.5) * (size / resized) - 0.5).clamp(0, size - 1)
