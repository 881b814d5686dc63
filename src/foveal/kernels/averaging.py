"""Averages over the cells of a coarser grid, in channels-last memory.

A pooling layer whose output size depends on its input size compiles anew for every size and is
frozen by export: there, and where cells overlap, products with two averaging matrices, made from
comparisons, take its place.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.tables import table


def adaptive_average(
    x: Float[Tensor, "b h w c"], cells: tuple[int, int]
) -> Float[Tensor, "b hp wp c"]:
    """The map averaged over a grid of `cells`, which overlap where they do not divide its sides."""
    sides = x.shape[1:3]
    if not torch.compiler.is_compiling() and sides[0] % cells[0] == sides[1] % cells[1] == 0:
        strides = (sides[0] // cells[0], sides[1] // cells[1])
        return F.avg_pool2d(x.permute(0, 3, 1, 2), strides).permute(0, 2, 3, 1)
    rows, columns = (
        adaptive_matrix(side, n, x.dtype, x.device) for side, n in zip(sides, cells, strict=True)
    )
    return _products(x, rows, columns)


def block_average(x: Float[Tensor, "b h w c"], width: int) -> Float[Tensor, "b hp wp c"]:
    """The map averaged over blocks of `width` by `width` positions, fewer at a ragged edge."""
    if not torch.compiler.is_compiling():
        pooled = F.avg_pool2d(x.permute(0, 3, 1, 2), width, ceil_mode=True)
        return pooled.permute(0, 2, 3, 1)
    rows, columns = (block_matrix(side, width, x.dtype, x.device) for side in x.shape[1:3])
    return _products(x, rows, columns)


@table
def adaptive_matrix(size: int, cells: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(cells, size): row a averages positions floor(a·size/cells) … ceil((a+1)·size/cells) − 1."""
    cell = torch.arange(cells, device=device)
    start = cell * size // cells
    end = ((cell + 1) * size + cells - 1) // cells
    return _average_between(start, end, size, dtype)


@table
def block_matrix(size: int, width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(ceil(size/width), size): row a averages positions a·width … (a+1)·width − 1 that exist."""
    start = torch.arange((size + width - 1) // width, device=device) * width
    return _average_between(start, (start + width).clamp(max=size), size, dtype)


def _average_between(start: Tensor, end: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    position = torch.arange(size, device=start.device)
    inside = (position >= start[:, None]) & (position < end[:, None])
    return inside.to(dtype) / (end - start)[:, None].to(dtype)


def _products(
    x: Float[Tensor, "b h w c"], rows: Float[Tensor, "hp h"], cols: Float[Tensor, "wp w"]
) -> Float[Tensor, "b hp wp c"]:
    """`rows` and `cols` hold one cell's weights a row.

    Two linear layers over the last dimension: the one form whose shapes export can prove for
    every size.
    """
    across = F.linear(x.permute(0, 1, 3, 2), cols)
    return F.linear(across.permute(0, 3, 2, 1), rows).permute(0, 3, 1, 2)
