"""The cases of every operator, a file each."""

from importlib import import_module
from pkgutil import iter_modules

from tests.kernels.harness import Case

CASES: list[Case] = [
    case
    for module in iter_modules(__path__)
    for case in import_module(f"{__name__}.{module.name}").CASES
]
