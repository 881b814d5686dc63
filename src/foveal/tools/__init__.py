"""What consumes a finished model."""

from importlib import import_module
from types import ModuleType

# Reached as `foveal.tools.explain`, and imported only then.
_LAZY = ("explain",)


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
