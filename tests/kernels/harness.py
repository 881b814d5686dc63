"""What every operator is held to, on every backend.

`tests/kernels/cases/OPERATOR.py` lists the cases of an operator; this module judges one.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch import Tensor

# Without a GPU kernels are interpreted on the CPU.
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter cuts float32 off to bfloat16 where hardware rounds; float16 it rounds.
LOW = torch.bfloat16 if torch.cuda.is_available() else torch.float16
# ‖found − exact‖ / ‖exact‖ of float32; low precision is measured against the plain form instead.
OUTPUT_ERROR, GRADIENT_ERROR = 1e-5, 3e-5


@dataclass(frozen=True)
class Case:
    """An operator at one shape.

    Attributes:
        name: "operator-what is special about the shape".
        run: the operator, called with the tensors and `backend=`.
        formula: the contract written out literally, in float64, from the same tensors.
        shapes: of the tensors, drawn from a normal distribution.
        exact: which tensors stay float32 in low precision (tables, positions, scales).
        prepare: makes the drawn float64 tensors valid inputs (positive, within a range).
        operator: the fused operator and its arguments from the tensors, for opcheck.
        slow: whether it runs in `make test-all` only.
        backends: beside the reference, with gradients.
        inference: backends that have none.
    """

    name: str
    run: Callable[..., Tensor]
    formula: Callable[..., Tensor]
    shapes: Sequence[tuple[int, ...]]
    exact: Sequence[int] = ()
    prepare: Callable[[list[Tensor]], list[Tensor]] = lambda tensors: tensors
    operator: Callable[..., tuple[torch._ops.OpOverload, tuple]] | None = None
    slow: bool = False
    backends: Sequence[str] = ("triton",)
    inference: Sequence[str] = ()


def device_of(backend: str) -> str:
    """Where a backend is tried."""
    return "cpu" if backend == "onednn" else DEVICE


def drawn(case: Case) -> list[Tensor]:
    """The case's tensors in float64."""
    draw = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in case.shapes]
    return [tensor.to(DEVICE) for tensor in case.prepare(tensors)]


def in_precision(case: Case, tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The tensors as a network in that precision has them, ready for gradients."""
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    return [
        t.detach().to(kept if i in case.exact else dtype).requires_grad_()
        for i, t in enumerate(tensors)
    ]


def with_gradients(run: Callable[..., Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
    """The output and the gradients of all tensors, for a fixed random gradient of the output."""
    out = run(*tensors)
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, generator=draw, dtype=torch.float64).to(out)
    found = torch.autograd.grad(out, tensors, weight, allow_unused=True)
    return [
        out.detach(),
        *(torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)),
    ]


def error(found: Tensor, exact: Tensor) -> float:
    """‖found − exact‖ / ‖exact‖."""
    exact = exact.double()
    return ((found.double() - exact).norm() / exact.norm().clamp(min=1e-30)).item()


def errors(case: Case, backend: str, dtype: torch.dtype) -> list[float]:
    """Of the output and of every gradient, against the formula on the very same numbers."""
    tensors = in_precision(case, drawn(case), dtype)
    found = with_gradients(lambda *t: case.run(*t, backend=backend), tensors)
    literal = [t.detach().double().requires_grad_() for t in tensors]
    exact = with_gradients(case.formula, literal)
    return [error(f, e) for f, e in zip(found, exact, strict=True)]


def guarded(tensor: Tensor) -> Tensor:
    """The same numbers as a view inside a larger tensor of NaN: strided, off alignment."""
    if tensor.ndim == 0:
        return tensor
    larger = tensor.new_full([n + 2 for n in tensor.shape[:-1]] + [tensor.shape[-1] + 3], torch.nan)
    inner = larger[(*[slice(1, n + 1) for n in tensor.shape[:-1]], slice(1, tensor.shape[-1] + 1))]
    with torch.no_grad():
        inner.copy_(tensor)
    return inner.detach().requires_grad_(tensor.requires_grad)


@contextmanager
def poisoned():
    """Memory that a kernel forgets to write holds NaN."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(make):
        def made(*args, **kwargs):
            out = make(*args, **kwargs)
            return out.fill_(torch.nan) if out.is_floating_point() else out

        return made

    new_empty = Tensor.new_empty
    with (
        mock.patch.object(torch, "empty", poison(empty)),
        mock.patch.object(torch, "empty_like", poison(empty_like)),
        mock.patch.object(Tensor, "new_empty", poison(new_empty)),
    ):
        yield
