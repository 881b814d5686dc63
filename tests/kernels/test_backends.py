"""Every operator on every backend: exact, with its gradients, whatever the shape and the memory."""

import pytest
import torch
from tests.kernels import harness
from tests.kernels.cases import CASES
from tests.kernels.harness import Case

from foveal.errors import BackendError


def over(*, fused_only: bool = False):
    """A test's parameters: case and backend."""
    pairs = [
        pytest.param(
            case, backend, id=f"{case.name}-{backend}", marks=[pytest.mark.slow] * case.slow
        )
        for case in CASES
        for backend in (*case.backends, *([] if fused_only else ["reference"]))
    ]
    return pytest.mark.parametrize(("case", "backend"), pairs)


@over()
def test_equals_the_formula_with_all_gradients(case: Case, backend: str):
    output, *gradients = harness.errors(case, backend, torch.float32)
    assert output < harness.OUTPUT_ERROR
    assert max(gradients) < harness.GRADIENT_ERROR, gradients


WITHOUT_GRADIENTS = pytest.mark.parametrize(
    ("case", "backend"),
    [
        pytest.param(case, backend, id=f"{case.name}-{backend}")
        for case in CASES
        for backend in case.inference
    ],
)


@WITHOUT_GRADIENTS
@torch.inference_mode()
def test_inference_equals_the_formula(case: Case, backend: str):
    tensors = [t.to(harness.device_of(backend)) for t in harness.drawn(case)]
    expected = case.formula(*tensors)
    single = [t.float() for t in tensors]
    for given in (single, [harness.guarded(t) for t in single]):
        with harness.poisoned():
            found = case.run(*given, backend=backend)
        assert harness.error(found, expected) < harness.OUTPUT_ERROR
        # A gate multiplies in place: not what was given.
        assert all(torch.equal(a, b.float()) for a, b in zip(given, tensors, strict=True))


@WITHOUT_GRADIENTS
def test_backends_without_gradients_say_so(case: Case, backend: str):
    drawn = [t.to(harness.device_of(backend)) for t in harness.drawn(case)]
    tensors = harness.in_precision(case, drawn, torch.float32)
    with pytest.raises(BackendError, match="no gradients"):
        case.run(*tensors, backend=backend)


@over(fused_only=True)
def test_low_precision_is_no_worse_than_twice_the_plain_form(case: Case, backend: str):
    plain = harness.errors(case, "reference", harness.LOW)
    found = harness.errors(case, backend, harness.LOW)
    for ours, theirs in zip(found, plain, strict=True):
        assert ours <= 2 * theirs + 1e-6, (found, plain)


@over(fused_only=True)
def test_strided_inputs_and_unwritten_memory_change_nothing(case: Case, backend: str):
    tensors = harness.in_precision(case, harness.drawn(case), torch.float32)

    def run(*given):
        return case.run(*given, backend=backend)

    expected = harness.with_gradients(run, tensors)
    with harness.poisoned():
        found = harness.with_gradients(run, [harness.guarded(t) for t in tensors])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@over(fused_only=True)
def test_twice_is_the_same_bit_for_bit(case: Case, backend: str):
    tensors = harness.in_precision(case, harness.drawn(case), torch.float32)

    def run(*given):
        return case.run(*given, backend=backend)

    for a, b in zip(*(harness.with_gradients(run, tensors) for _ in range(2)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.name, marks=[pytest.mark.slow] * c.slow) for c in CASES if c.operator],
)
def test_is_registered_as_pytorch_asks(case: Case):
    assert case.operator is not None
    tensors = harness.in_precision(case, harness.drawn(case), torch.float32)
    operator, args = case.operator(*tensors)
    torch.library.opcheck(operator, args)


@pytest.mark.parametrize("case", [pytest.param(c, id=c.name) for c in CASES if not c.slow])
def test_reference_passes_gradcheck(case: Case):
    tensors = harness.in_precision(case, harness.drawn(case), torch.float64)
    assert torch.autograd.gradcheck(
        lambda *t: case.run(*t, backend="reference"), tensors, fast_mode=True
    )


@over(fused_only=True)
def test_float64_is_refused_in_a_sentence(case: Case, backend: str):
    tensors = harness.in_precision(case, harness.drawn(case), torch.float64)
    with pytest.raises(BackendError, match=r"float64"):
        case.run(*tensors, backend=backend)
