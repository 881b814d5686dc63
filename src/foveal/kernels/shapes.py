"""Sizes that may be symbols, and changes of shape that hold for all their values.

`torch.export` refuses a view whose validity it cannot prove for every size, such as merging seven
cells of each of ⌈H/7⌉ windows into a side of the padded map. As a matter of strides the same view
needs no proof. Everywhere else these functions are the ordinary ones.
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F


def at_least(size: int, least: int) -> int:
    """The greater of the two, without a branch on a size that the compiler keeps symbolic."""
    return cast(int, torch.sym_max(size, least))


def reshape(x: Tensor, *shape: int) -> Tensor:
    """`x.reshape(shape)`; no size may be −1."""
    if not torch.compiler.is_exporting():
        return x.reshape(shape)
    strides = [1]
    for size in shape[:0:-1]:
        strides.insert(0, strides[0] * size)
    return laid_out(x).as_strided(shape, strides)


def laid_out(x: Tensor) -> Tensor:
    """`x`, in memory of its own while exporting.

    Attention's result lies one way in memory while it is traced and another once it is decomposed
    for another runtime, where views of the traced layout would be refused, or wrong.
    """
    return x.clone(memory_format=torch.contiguous_format) if torch.compiler.is_exporting() else x


def pad(x: Tensor, height: int, width: int, most: int) -> Tensor:
    """(b, h, w, c) with zeros right and below, up to the size asked for.

    While exporting there are more, `most` an axis: the number must not depend on the size.
    """
    if torch.compiler.is_exporting():
        return F.pad(x, (0, 0, 0, most, 0, most))
    return F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))
