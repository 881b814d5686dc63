"""The five families by their literal formulas: what the library's own way is measured against.

Every function computes what its mixer's `forward` computes, from the same parameters, the way the
formulas read and plain PyTorch code is commonly written: windows unfolded, neighbours gathered by
index, a displacement for every pair of query and key, softmax spelt out, and memory copied between
channels-first convolutions and channels-last linear layers. No loop over pixels, nothing slowed
down on purpose. Where a published network is channels-first from end to end, so is its naive form.
"""

import copy
from collections.abc import Callable
from types import MethodType
from typing import TypeVar

from torch import Tensor, nn

from benchmarks.naive import cloformer, dat, depthwise, efficientmod, focalnet, transnext
from foveal.errors import FovealError
from foveal.layers.image_input import ImageConv2d
from foveal.models.cloformer import CloFormer
from foveal.models.dat import DAT

__all__ = [
    "FORWARDS",
    "cloformer",
    "dat",
    "depthwise",
    "efficientmod",
    "focalnet",
    "make_naive",
    "transnext",
]

M = TypeVar("M", bound=nn.Module)
Forward = Callable[..., Tensor]

FORWARDS: dict[type[nn.Module], Forward] = {
    **focalnet.FORWARDS,
    **transnext.FORWARDS,
    **cloformer.FORWARDS,
    **dat.FORWARDS,
    **efficientmod.FORWARDS,
}
CHANNELS_FIRST = (CloFormer, DAT)


def make_naive(model: M) -> M:
    """A copy of a network or mixer that shares its parameters and computes them literally.

    Raises:
        FovealError: there is no mixer of the five families in it, or one with an option that no
            published variant has.
    """
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    naive = copy.deepcopy(model, shared)
    found = False
    for module in naive.modules():
        forward = FORWARDS.get(type(module))
        if forward is not None:
            found = True
            module.forward = MethodType(forward, module)
        elif isinstance(module, ImageConv2d) and isinstance(naive, CHANNELS_FIRST):
            module.forward = MethodType(nn.Conv2d.forward, module)
    if not found:
        raise FovealError(
            f"{type(model).__name__} has no mixer of Foveal's five families; make_naive takes "
            "what foveal.create_model or foveal.mixers makes."
        )
    return naive
