"""Where low precision stops: logits, positions and norms are computed in float32 or better."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A region in which autocast leaves float32 tensors alone."""
    # Where there is none to stop, an exported graph is to hold no region, with which PyTorch may
    # not open its own file again. The meta device has no autocast.
    if x.device.type == "meta" or not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


def at_least_float32(x: Tensor) -> Tensor:
    """`x` itself in float32 or float64, a float32 copy of anything shorter."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
