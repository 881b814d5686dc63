"""The naive networks that the benchmarks measure against compute what ours compute."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from benchmarks import floors, scaling, timing
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


CPU = torch.device("cpu")
SHORT = timing.Effort(rounds=5, seconds=5, warm_up=1, sample_ms=0)


def test_a_race_counts_how_many_times_faster_the_first_is() -> None:
    def taking(seconds: float) -> Callable[[torch.Tensor], torch.Tensor]:
        def call(x: torch.Tensor) -> torch.Tensor:
            time.sleep(seconds)
            return x

        return call

    inputs = [(torch.ones(3),)]
    contestants = {"quick": taking(0.005), "slow": taking(0.05)}
    race = timing.race(contestants, inputs, CPU, SHORT, tolerance=0)
    assert race.times_faster["slow"].median > 3
    assert timing.beyond_noise(race, "slow")
    assert race.milliseconds["quick"].median >= 5
    assert (race.milliseconds["quick"].count, race.milliseconds["slow"].count) == (10, 5)
    assert race.disagreement == {"slow": 0}


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
def test_no_time_is_taken_of_what_disagrees(wrong: float) -> None:
    contestants = {"ours": torch.abs, "wrong": lambda x: wrong * x.abs()}
    inputs = [(torch.ones(3),)]
    with pytest.raises(timing.ParityError, match="wrong and ours differ"):
        timing.race(contestants, inputs, CPU, SHORT, tolerance=1e-3)
    race = timing.race(contestants, inputs, CPU, SHORT, tolerance=1e-3, strangers=["wrong"])
    assert set(race.times_faster) == {"wrong"}


def test_spreads_and_results_on_file(tmp_path: Path) -> None:
    found = timing.spread([5.0, 1.0, 2.0, 3.0, 4.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0])
    assert (found.median, found.p10, found.p90, found.count) == (6, 2, 10, 11)
    assert f"{found:.1f}" == "6.0 (2.0–10.0)"
    timing.write(tmp_path / "new" / "figures.json", {"results": [found]}, "# Figures\n")
    written = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert written == {"results": [{"median": 6, "p10": 2, "p90": 10, "count": 11}]}
    assert (tmp_path / "new" / "figures.md").read_text() == "# Figures\n"


def test_where_it_was_measured() -> None:
    found = timing.hardware(CPU)
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["commit"] in timing.described(found)


def test_floors_are_bytes_or_work() -> None:
    # FocalNet-tiny's first stage, 128 images in bfloat16: eight maps of 77 MB, and the gates.
    focal = floors.focal_aggregation(128, 56, 56, 96, (3, 5, 7), 2)
    assert focal.bytes == 2 * 128 * 56 * 56 * (8 * 96 + 4)
    assert focal.vector == 2 * 128 * 56 * 56 * 96 * (9 + 25 + 49)
    ceilings = floors.Ceilings(bytes_per_second=1e12, matrix_flops=1e15, vector_flops=1e13)
    assert focal.milliseconds(ceilings) == pytest.approx(1e3 * focal.vector / 1e13)
    product = floors.gated_product(1, 10, 10, 8, 6, 4)
    assert product.milliseconds(ceilings) == pytest.approx(1e3 * 4 * 100 * 8 * 13 / 1e12)


def test_powers_are_read_off_the_larger_sizes() -> None:
    sizes = [224, 448, 896, 1792]
    seconds = [100.0, *(2e-6 * (size * size) ** 1.5 for size in sizes[1:])]
    assert scaling.power(sizes, seconds) == pytest.approx(1.5)
