"""The naive networks that the benchmarks measure against compute what ours compute."""

import pytest
import torch
from benchmarks.naive import FORWARDS, make_naive
from torch import nn

from foveal import mixers
from foveal.errors import FovealError
from foveal.models.dat_local import ConvMlp, WindowAttention
from foveal.models.efficientmod import Attention
from foveal.models.transnext import FullAttention
from tests.golden import cases

SMALL_CASES = [
    "focalnet_tiny_srf@1x128x160",
    "transnext_micro@2x224x224",
    "cloformer_xxs@1x256x192",
    "dat_tiny_plus_plus_dense@1x160x224",
    "efficientmod_xxs@1x256x192",
]


@pytest.mark.parametrize("name", SMALL_CASES)
def test_naive_networks_pass_the_golden_numbers(name: str) -> None:
    case = cases.load(name)
    model = cases.build(case)
    naive, image = make_naive(model), case.image()
    with torch.no_grad():
        expected, output = case.output(model, image), case.output(naive, image)
    assert cases.relative_error(output, case.arrays["logits"]) <= 2e-6
    assert cases.relative_error(output, expected.numpy()) <= 1e-9
    assert next(naive.parameters()) is next(model.parameters())


def small(kind: type[nn.Module]) -> nn.Module:
    special = {
        mixers.AggregatedAttention: {"num_heads": 2, "sr_ratio": 2, "pretrain_size": 9},
        FullAttention: {"num_heads": 2},
        mixers.FocalModulation: {"focal_level": 3, "normalize_modulator": True},
        mixers.CloAttention: {"num_heads": 4, "group_split": (2, 2), "kernel_sizes": (3,)},
        mixers.DeformableAttention: {"num_heads": 4, "num_groups": 2, "table_size": 9},
        mixers.NeighborhoodAttention: {"num_heads": 2},
        WindowAttention: {"num_heads": 2, "shift": True},
        ConvMlp: {"ratio": 2},
        Attention: {"num_heads": 2},
    }
    return kind(16, **special.get(kind, {}), dtype=torch.float64)


@pytest.mark.parametrize("size", [(9, 12), (14, 7), (3, 10)])
@pytest.mark.parametrize("kind", FORWARDS, ids=lambda kind: kind.__name__)
def test_naive_mixers_equal_ours_on_odd_maps(kind: type[nn.Module], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    mixer = small(kind)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_(0, 0.5)
    x = torch.randn(2, 16, *size, dtype=torch.float64, requires_grad=True)
    ours, theirs = mixer(x), make_naive(mixer)(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn_like(ours)
    gradients = [torch.autograd.grad(y, x, cotangent)[0] for y in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def test_naive_refuses_other_networks() -> None:
    with pytest.raises(FovealError, match="no mixer"):
        make_naive(nn.Linear(3, 3))
