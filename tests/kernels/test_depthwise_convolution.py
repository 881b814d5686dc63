"""The depthwise convolution and focal aggregation where a network's use goes beyond the harness."""

import pytest
import torch
from tests.kernels.harness import DEVICE, LOW
from torch import Tensor

from foveal.errors import BackendError
from foveal.kernels.depthwise_convolution import depthwise_convolution, reference
from foveal.kernels.focal_aggregation import focal_aggregation


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    draw = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=draw).to(DEVICE, dtype).requires_grad_()


@pytest.mark.parametrize("size", [4, 15])
def test_filters_that_the_kernels_do_not_take(size: int) -> None:
    x, weight = drawn(1, 3, 3, 8), drawn(8, 1, size, size)
    with pytest.raises(BackendError, match=f"odd size up to 13, not {size} x {size}"):
        depthwise_convolution(x, weight, backend="triton")
    with pytest.raises(BackendError, match=f"odd size up to 13, not {size} x {size}"):
        focal_aggregation(x, drawn(1, 3, 3, 2), weight, backend="triton")


def test_without_a_level_there_is_nothing_to_fuse() -> None:
    x, gates = drawn(1, 3, 3, 8), drawn(1, 3, 3, 1)
    with pytest.raises(BackendError, match="without a focal level"):
        focal_aggregation(x, gates, backend="triton")
    torch.testing.assert_close(
        focal_aggregation(x, gates), gates * torch.nn.functional.gelu(x.mean((1, 2)))[:, None, None]
    )


def test_filters_stay_in_full_precision_under_autocast() -> None:
    """Features arrive short, parameters in float32, and each gradient in its tensor's dtype."""
    features = [drawn(1, 3, 5, 8, dtype=LOW), drawn(1, 3, 5, 8, dtype=LOW)]
    parameters = [drawn(8, 1, 3, 3), drawn(8)]
    (x, gate), (weight, bias) = features, parameters
    out = depthwise_convolution(x, weight, bias, gate=gate, activation="gelu", backend="triton")
    exact = reference.depthwise_convolution(x.float(), weight, bias, gate.float(), False, "gelu", 1)
    assert out.dtype == LOW
    torch.testing.assert_close(out.float(), exact, rtol=1e-2, atol=1e-2)
    leaves = [*features, *parameters]
    found = torch.autograd.grad(out.float().sum(), leaves)
    for ours, theirs, leaf in zip(
        found, torch.autograd.grad(exact.sum(), leaves), leaves, strict=True
    ):
        assert ours.dtype == leaf.dtype
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)


def test_halves_of_one_tensor_are_read_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    x, gate = drawn(2, 3, 5, 32).chunk(2, -1)
    weight = drawn(16, 1, 3, 3)
    expected = reference.depthwise_convolution(x, weight, None, gate, False, "none", 1)
    copies = []
    contiguous = Tensor.contiguous

    def counted(self: Tensor, *args, **kwargs) -> Tensor:
        if self.shape == x.shape and not self.is_contiguous():
            copies.append(self)
        return contiguous(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "contiguous", counted)
    with torch.no_grad():
        found = depthwise_convolution(x, weight, gate=gate, backend="triton")
    torch.testing.assert_close(found, expected.detach())
    assert not copies


def test_only_what_the_backward_pass_needs_is_kept() -> None:
    whole = torch.ops.foveal.depthwise_convolution_triton
    x, weight = drawn(1, 3, 3, 8), drawn(8, 1, 3, 3)
    assert whole(x, weight, None, None, False, "gelu", 1, False)[1].numel() == 0
    assert whole(x, weight, None, None, False, "gelu", 1, True)[1].shape == x.shape
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        depthwise_convolution(x, weight, backend="triton")
    assert sum(kept) == x.numel() + weight.numel()


def test_frozen_inputs_get_no_gradient() -> None:
    x, weight, bias = drawn(1, 3, 3, 8), drawn(8, 1, 3, 3).detach(), drawn(8).detach()
    out = depthwise_convolution(x, weight, bias, activation="silu", backend="triton")
    (found,) = torch.autograd.grad(out.sum(), x)
    exact = reference.depthwise_convolution(x, weight, bias, None, False, "silu", 1)
    torch.testing.assert_close(found, torch.autograd.grad(exact.sum(), x)[0])
