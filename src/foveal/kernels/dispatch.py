"""Which backend runs an operator, and the sentence that says why.

Every operator has a ladder of backends, the fastest first and last the reference, which takes
everything. "auto" takes the first rung that raises no objection; a backend asked for by name raises
with its objection. Nothing else is caught: a kernel that fails, fails.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from foveal.errors import BackendError

_log = logging.getLogger("foveal")

# Triton reads the variable once, when kernels are defined.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_TRITON = find_spec("triton") is not None

_chosen = "auto"


class Backend(NamedTuple):
    """One way to run an operator; both functions take the operator's own arguments.

    Attributes:
        name: "triton", "onednn" or "reference".
        objection: why it cannot run these arguments, or None.
        run: computes the operator.
        device: the type of device it was made for.
    """

    name: str
    objection: Callable[..., str | None]
    run: Callable[..., Tensor]
    device: str = "cuda"


def plain(run: Callable[..., Tensor]) -> Backend:
    """The rung that takes everything."""
    return Backend("reference", lambda *_: None, run)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """All operators take this backend inside, unless their own argument names another.

    Args:
        name: "auto", "triton", "onednn" or "reference".
    """
    global _chosen  # noqa: PLW0603 - one setting for the process, as torch's own backends have
    before, _chosen = _chosen, name
    try:
        yield
    finally:
        _chosen = before


def dispatch(
    operator: str,
    ladder: Sequence[Backend],
    backend: str,
    args: tuple[object, ...],
    *,
    composed: bool = False,
) -> Tensor:
    """Run an operator on the rung that `backend` names, or on the first without objection.

    Args:
        composed: the reference is made of operators that heed `use_backend` themselves, so that it
            may take the place of a rung which objects.

    Raises:
        BackendError: the backend does not exist, or cannot run these arguments.
    """
    name = _chosen if backend == "auto" else backend
    if name == "auto":
        rung = _first(operator, ladder, args)
    elif composed and backend == "auto":
        willing = (r for r in ladder if r.name == name and r.objection(*args) is None)
        rung = next(willing, ladder[-1])
    else:
        rung = _named(operator, ladder, name, args)
    return rung.run(*args)


def verdicts(ladder: Sequence[Backend], args: tuple[object, ...]) -> dict[str, str]:
    """What each rung says of these arguments: "runs", or its objection."""
    return {rung.name: rung.objection(*args) or "runs" for rung in ladder}


def triton_objection(*tensors: Tensor | None) -> str | None:
    """What keeps any kernel of ours from these tensors, or None."""
    given = [tensor for tensor in tensors if tensor is not None]
    if torch.compiler.is_exporting():
        return "an exported program holds standard operators only"
    for tensor in given:
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            return f"it computes in float32, which {tensor.dtype} does not fit"
        if tensor.numel() == 0:
            return "there is nothing to compute in an empty tensor"
    return _device_objection(given[0].device)


def _device_objection(device: torch.device) -> str | None:
    if not _TRITON:
        return "Triton is not installed: pip install triton (Linux)"
    if device.type == "cpu" and INTERPRETED:
        return None
    if device.type != "cuda":
        return f"it needs a CUDA device, the input is on {device.type!r}"
    return _too_old(device.index)


@torch.compiler.assume_constant_result
def _too_old(index: int | None) -> str | None:
    major, minor = torch.cuda.get_device_capability(index)
    if major >= 8:
        return None
    return f"it needs compute capability 8.0 (Ampere) or later, this GPU has {major}.{minor}"


def _first(operator: str, ladder: Sequence[Backend], args: tuple[object, ...]) -> Backend:
    first = args[0]
    assert isinstance(first, Tensor)
    on_cpu = first.device.type == "cpu"
    for rung in ladder[:-1]:
        # Triton's interpreter is for tests that ask for it: nobody wants it chosen for them.
        if on_cpu != (rung.device == "cpu"):
            continue
        objection = rung.objection(*args)
        if objection is None:
            return rung
        if not on_cpu and not torch.compiler.is_compiling():
            _say(operator, rung.name, objection)
    return ladder[-1]


def _named(
    operator: str, ladder: Sequence[Backend], name: str, args: tuple[object, ...]
) -> Backend:
    for rung in ladder:
        if rung.name == name:
            objection = rung.objection(*args)
            if objection is not None:
                raise BackendError(f"{operator} cannot run on {name}: {objection}.")
            return rung
    names = ", ".join(repr(rung.name) for rung in ladder)
    raise BackendError(f"{operator} has no backend {name!r}: choose 'auto' or one of {names}.")


_said: set[tuple[str, str, str]] = set()


def _say(operator: str, backend: str, objection: str) -> None:
    """Once for each reason."""
    if (operator, backend, objection) not in _said:
        _said.add((operator, backend, objection))
        _log.info("%s does not run on %s: %s.", operator, backend, objection)
