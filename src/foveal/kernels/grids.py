"""Normalised coordinates on a map whose sides run from −1 to 1."""

import torch
from torch import Tensor

from foveal.kernels.shapes import at_least
from foveal.kernels.tables import table


@table
def cell_centres(size: int, over: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size): (2i + 1) / `over` − 1; the centres of the map's cells if `over` is their number."""
    return (2 * torch.arange(size, device=device, dtype=dtype) + 1) / over - 1


@table
def corner_grid(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(size): evenly from −1 to 1; 0 for a single cell."""
    last = size - 1
    return (2 * torch.arange(size, device=device, dtype=dtype) - last) / at_least(last, 1)
