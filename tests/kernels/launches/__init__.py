"""What `tests/kernels/offline.py` launches, a file for each operator.

`LAUNCHES` holds, by name, functions that run an operator on tensors without memory; `WIDE`, where a
file has it, the names of the kernels whose widest load must be 16 bytes.
"""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

_MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]

LAUNCHES: dict[str, Callable[[], None]] = {
    name: run for module in _MODULES for name, run in module.LAUNCHES.items()
}
WIDE: set[str] = {name for module in _MODULES for name in getattr(module, "WIDE", ())}
