"""Tables that follow from sizes alone, kept for reuse; one bounded cache for all of them."""

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

MAX_BYTES = 64 * 2**20

_cache: OrderedDict[tuple, Tensor] = OrderedDict()


def table(build: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Remember what `build` returns, by all its arguments (sizes, dtype, device).

    While compiling or exporting nothing is remembered: sizes are symbols there, and the table
    belongs into the graph. The oldest tables make room once all of them pass 64 MiB.
    """

    @wraps(build)
    def cached(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if torch.compiler.is_compiling():
            return build(*args, **kwargs)
        key = (build.__module__, build.__qualname__, args, tuple(sorted(kwargs.items())))
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
        # A tensor born in inference mode could never take part in training later on.
        with torch.inference_mode(False), torch.no_grad():
            result = build(*args, **kwargs)
        if type(result) is Tensor and result.device.type != "meta":
            _remember(key, result)
        return result

    return cached


def cached_bytes() -> int:
    """Memory that the tables take."""
    return sum(t.untyped_storage().nbytes() for t in _cache.values())


def _remember(key: tuple, result: Tensor) -> None:
    if result.untyped_storage().nbytes() > MAX_BYTES // 4:
        return
    _cache[key] = result
    while cached_bytes() > MAX_BYTES:
        _cache.popitem(last=False)
