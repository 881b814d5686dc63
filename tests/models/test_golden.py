"""Every recorded case of the official networks: outputs, taps and gradients."""

import numpy as np
import pytest
import torch

from foveal.kernels.dispatch import use_backend
from tests.golden import cases


@pytest.mark.parametrize("name", cases.CASES)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float64, 2e-6), (torch.float32, 2e-5)], ids=["f64", "f32"]
)
def test_outputs_and_taps(name: str, dtype: torch.dtype, bound: float) -> None:
    case = cases.load(name)
    model = cases.build(case, dtype)
    image = case.image(dtype)
    with torch.no_grad():
        output = case.output(model, image)
    assert cases.relative_error(output, case.arrays["logits"]) <= bound
    errors = cases.tap_errors(case, model, image)
    assert errors
    assert {path: e for path, e in errors.items() if not e <= bound} == {}


ON_KERNELS = [
    "cloformer_xxs@1x256x192",
    "dat_tiny@2x224x224",
    "dat_tiny_plus_plus_dense@1x160x224",
    "efficientmod_xxs@1x256x192",
    "focalnet_tiny_srf@1x128x160",
    "transnext_micro@2x224x224",
]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ON_KERNELS)
def test_outputs_on_kernels(name: str) -> None:
    """Every operator by its kernel, in Triton's interpreter where there is no GPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = cases.load(name)
    model = cases.build(case, torch.float32).to(device)
    with torch.no_grad(), use_backend("triton"):
        output = case.output(model, case.image(torch.float32).to(device))
    assert cases.relative_error(output.cpu(), case.arrays["logits"]) <= 2e-5


@pytest.mark.parametrize("name", cases.WITH_GRADIENTS)
def test_gradients(name: str) -> None:
    case = cases.load(name)
    model = cases.build(case)
    assert cases.backward(case, model) <= 2e-6

    named = cases.official_gradients(case.variant, model)
    recorded = case.meta["grad_norms"]
    assert set(named) == set(recorded)
    largest = max(recorded.values())
    wrong = {
        key: (float(np.linalg.norm(named[key])), norm)
        for key, norm in recorded.items()
        if not abs(np.linalg.norm(named[key]) - norm) <= 1e-5 * norm + 1e-9 * largest
    }
    assert wrong == {}
