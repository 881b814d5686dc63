"""EfficientMod's modulation in one kernel: low precision, refusals, the network on it."""

from unittest import mock

import pytest
import torch
from tests.kernels import harness
from tests.kernels.cases.modulation_mlp import CASES, layer
from tests.models.families import shallow
from torch import nn

from foveal.errors import BackendError
from foveal.kernels.dispatch import use_backend
from foveal.kernels.modulation_mlp import fused, modulation_mlp
from foveal.models.efficientmod import EfficientModulation


@torch.inference_mode()
def test_low_precision_is_no_worse_than_layer_by_layer():
    case = CASES[0]
    given = [t.to(harness.LOW) for t in harness.drawn(case)]
    expected = case.formula(*(t.double() for t in given))
    fused, plain = (
        harness.error(case.run(*given, backend=name), expected) for name in ("triton", "reference")
    )
    assert fused <= plain


def inputs(channels: int = 8, dtype: torch.dtype = torch.float32):
    x, context = torch.randn(2, 1, 2, 2, channels, device=harness.DEVICE)
    fc1 = nn.Linear(channels, 2 * channels, device=harness.DEVICE, dtype=dtype)
    return x, context, fc1, nn.Linear(2 * channels, channels, device=harness.DEVICE, dtype=dtype)


@torch.inference_mode()
def test_what_it_refuses():
    for args, sentence in (
        (inputs(72), "64 channels at most, not 72"),
        (inputs(dtype=torch.bfloat16), "different precision"),
        ((*inputs()[:3], nn.Linear(16, 8, bias=False, device=harness.DEVICE)), "plain nn.Linear"),
    ):
        with pytest.raises(BackendError, match=sentence):
            modulation_mlp(*args, backend="triton")
    x, context, fc1, fc2 = inputs()
    fc1.register_forward_hook(lambda *_: None)
    with pytest.raises(BackendError, match="without hooks"):
        modulation_mlp(x, context, fc1, fc2, backend="triton")


@torch.inference_mode()
def test_the_network_modulates_by_it():
    torch.manual_seed(0)
    model = shallow("efficientmod_xxs").eval().to(harness.DEVICE)
    modulations = [m for m in model.modules() if isinstance(m, EfficientModulation)]
    assert modulations
    for module in modulations:
        channels = module.fc1.in_features
        x = torch.randn(1, channels, 3, 4, device=harness.DEVICE)
        with use_backend("reference"):
            expected = module(x)
        if channels > fused.MOST_CHANNELS:
            continue
        with (
            use_backend("triton"),
            mock.patch.object(fused, "modulate", wraps=fused.modulate) as on,
        ):
            found = module(x)
        assert on.call_count == 1
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_where_it_refuses_a_network_goes_on_layer_by_layer():
    x, context, fc1, fc2 = inputs()
    expected = modulation_mlp(x, context, fc1, fc2, backend="reference")
    with use_backend("triton"), mock.patch.object(fused, "modulate") as on:
        found = modulation_mlp(x, context, fc1, fc2)
    assert not on.called and found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_layer_of_given_tensors_is_a_layer():
    weight, bias = torch.randn(4, 3), torch.randn(4)
    x = torch.randn(2, 3)
    torch.testing.assert_close(layer(weight, bias)(x), x @ weight.T + bias)
