"""Speed and memory, measured on work of a known size."""

import sys
import time
from pathlib import Path

import pytest
import torch

from foveal.tools import cost as module
from foveal.tools.cost import MEASURED, WARM_UP, CostMeter, resident_peak

CPU = torch.device("cpu")


def test_the_rate_leaves_out_warm_up_and_short_batches():
    meter = CostMeter(CPU)
    for count, seconds in [(8, 0.2), (8, 0.2), (8, 0.02), (8, 0.02), (8, 0.02), (1, 0.1)]:
        assert meter.time(lambda s=seconds: time.sleep(s) or "done", count) == "done"
    cost = meter.cost()
    assert 200 < cost.images_per_second <= 400
    assert cost.batch_size == 8 and "thread" in cost.device


def test_a_single_batch_is_repeated_until_it_can_be_timed():
    calls = []
    meter = CostMeter(CPU)
    meter.time(lambda: calls.append(0), 4)
    meter.top_up(lambda: calls.append(1), 4)
    assert len(calls) == WARM_UP + MEASURED
    assert meter.cost().images_per_second > 0


def test_the_peak_is_of_what_was_held_meanwhile():
    meter = CostMeter(CPU)

    def work() -> None:
        torch.ones(60_000_000)

    before = resident_peak()
    meter.time(work, 1)
    meter.top_up(lambda: None, 1)
    peak = meter.cost().peak_memory_mb
    if before is None or peak is None:
        pytest.skip("this system does not tell")
    assert peak >= 240
    assert meter.cost().memory_of == "the process"


def test_systems_without_a_status_file_tell_through_resource(monkeypatch: pytest.MonkeyPatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(module, "_STATUS", Path("/nowhere"))
    peak = resident_peak()
    expected = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak == pytest.approx(
        expected * (1 if sys.platform == "darwin" else 1024) / 1e6, rel=0.1
    )
