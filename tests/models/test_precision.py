"""Autocast with loud inputs: finite outputs and gradients in bfloat16 and float16."""

from contextlib import nullcontext

import pytest
import torch

import foveal
from foveal.kernels.precision import full_precision
from tests.models.families import SMALLEST


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = foveal.create_model(name, num_classes=10, drop_path_rate=0.0).train()
    image = (50 * torch.randn(2, 3, 96, 128)).requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        logits = model(image)
    assert logits.isfinite().all()
    logits.float().square().mean().backward()
    infinite = [
        k for k, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ]
    assert infinite == []
    assert image.grad is not None
    assert image.grad.isfinite().all()


@pytest.mark.parametrize("name", SMALLEST)
def test_autocast_is_near_full_precision(name: str) -> None:
    torch.manual_seed(0)
    model = foveal.create_model(name, num_classes=0, global_pool="").eval()
    image = torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        exact = model(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = model(image).float()
    assert torch.linalg.norm(low - exact) < 0.05 * torch.linalg.norm(exact)


def test_no_region_is_made_where_there_is_no_autocast_to_stop() -> None:
    """An exported graph with one cannot be opened again."""
    x = torch.ones(1)
    assert isinstance(full_precision(x), nullcontext)
    with torch.autocast("cpu", torch.bfloat16):
        assert not isinstance(full_precision(x), nullcontext)
        with full_precision(x):
            assert not torch.is_autocast_enabled("cpu")
