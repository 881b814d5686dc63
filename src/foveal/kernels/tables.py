"""Tables that follow from sizes, or from parameters that are frozen, kept in one bounded cache."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

P = ParamSpec("P")

MAX_BYTES = 64 * 2**20
# What is made from frozen parameters is larger: a table for every block of a network.
MAX_KEPT_BYTES = 256 * 2**20

_cache: OrderedDict[tuple, Tensor] = OrderedDict()
_kept: OrderedDict[tuple, Tensor] = OrderedDict()
_frozen: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


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
            _remember(_cache, MAX_BYTES, key, result)
        return result

    return cached


def freeze(parameter: Tensor) -> None:
    """Promise that a parameter stays as it is, so that what is made from it may be kept."""
    _frozen[parameter] = object()


def is_frozen(parameter: Tensor) -> bool:
    """Whether `kept` keeps what is made from it, here and now."""
    return not (torch.compiler.is_compiling() or torch.is_grad_enabled()) and parameter in _frozen


def kept(parameter: Tensor, name: tuple[Hashable, ...], make: Callable[[], Tensor]) -> Tensor:
    """What `make` makes from a parameter, remembered by name if the parameter is frozen."""
    if not is_frozen(parameter):
        return make()
    # A parameter that was written to in spite of the promise has another version.
    memory = (parameter.device, parameter.dtype, parameter.data_ptr(), parameter._version)
    key = (_frozen[parameter], *memory, *name)
    if key in _kept:
        _kept.move_to_end(key)
        return _kept[key]
    with torch.inference_mode(False), torch.no_grad():
        made = make()
    _remember(_kept, MAX_KEPT_BYTES, key, made)
    return made


def cached_bytes() -> int:
    """Memory that the tables take."""
    return _bytes(_cache)


def kept_bytes() -> int:
    """Memory that what was made from frozen parameters takes."""
    return _bytes(_kept)


def _bytes(tables: OrderedDict[tuple, Tensor]) -> int:
    return sum(t.untyped_storage().nbytes() for t in tables.values())


def _remember(tables: OrderedDict[tuple, Tensor], limit: int, key: tuple, result: Tensor) -> None:
    if result.untyped_storage().nbytes() > limit // 4:
        return
    tables[key] = result
    while _bytes(tables) > limit:
        tables.popitem(last=False)
