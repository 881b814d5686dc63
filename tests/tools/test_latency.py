"""Latency: protocols on clocks that tell what they are told, and engines on tiny networks."""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveal.errors import OptionError
from foveal.models.weights import WEIGHTS, published_top1
from foveal.tools.cost import count_flops
from foveal.tools.latency import engines, memory, protocol, run, threads
from foveal.tools.latency.engines import ENGINES, Loaded, Prepared, Subject
from foveal.tools.latency.hardware import described, hardware
from foveal.tools.latency.protocol import Contestant, Effort, paired_rounds, race_of, single_runs
from foveal.tools.latency.run import LatencySettings, measure_latency
from foveal.tools.latency.spread import spread
from foveal.tools.latency.table import LatencyTable
from foveal.tools.latency.threads import pinned_threads
from tests.models.families import shallow

CPU = torch.device("cpu")
TINY = ("efficientmod_xxs", "focalnet_tiny_srf")


class Clock:
    """Time that passes only when somebody says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def taking(self, milliseconds: Callable[[], float]) -> Contestant:
        """A contestant whose call lasts so long."""

        def call(_: Any) -> None:
            self.now += milliseconds() / 1e3

        return Contestant(call, [(0,), (1,)], CPU)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The protocols' clock."""
    fake = Clock()
    monkeypatch.setattr(protocol, "time", fake)
    return fake


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One convolution in the place of networks by name."""

    def create(_: str) -> nn.Module:
        pool = nn.AdaptiveAvgPool2d(2)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GELU(), pool, nn.Flatten())

    monkeypatch.setattr(run, "create_model", create)


def last(tables: Iterator[LatencyTable]) -> LatencyTable:
    """Where a measurement ends."""
    *_, final = tables
    return final


SMALL: dict[str, Any] = {"image_size": 64, "threads": 1, "runs": 4}


# Protocols


def test_ratios_are_of_the_same_round_whatever_the_machine_does(clock: Clock) -> None:
    # Round by round the machine is 1 to 9 times as slow, the same for all who run in it.
    slowness = iter(range(10**6))
    now = {"factor": 1.0}

    def first() -> float:
        return 2.0 * now["factor"]

    contestants = {
        "a": clock.taking(first),
        "b": clock.taking(lambda: 5.0 * now["factor"]),
        "c": clock.taking(lambda: 1.0 * now["factor"]),
    }
    rounds = paired_rounds(contestants, Effort(9, 1e9, warm_up=1, sample_ms=0))
    seen = []
    for times in rounds:
        seen.append(times)
        now["factor"] = 1.0 + next(slowness) % 9
    race = race_of(seen, list(contestants))
    assert race.times_faster["b"].median == pytest.approx(2.5)
    assert race.times_faster["b"].p10 == pytest.approx(race.times_faster["b"].p90)
    assert race.times_faster["c"].median == pytest.approx(0.5)
    assert race.noise.median == pytest.approx(1.0)
    assert race.milliseconds["a"].p90 > 3 * race.milliseconds["a"].p10
    assert race.milliseconds["a"].count == 2 * race.milliseconds["b"].count == 18


def test_a_ratio_counts_only_outside_of_the_first_ones_own(clock: Clock) -> None:
    # The first takes 10 or 12 ms in turn, so 1.1 times its time is nothing and twice is much.
    jitter = itertools.cycle([10.0, 12.0, 10.0, 12.0, 12.0])
    contestants = {
        "a": clock.taking(lambda: next(jitter)),
        "near": clock.taking(lambda: 12.1),
        "far": clock.taking(lambda: 22.0),
    }
    effort = Effort(40, 1e9, warm_up=1, sample_ms=0)
    race = race_of(list(paired_rounds(contestants, effort)), list(contestants))
    assert race.noise.p10 < 1 < race.noise.p90
    assert not protocol.beyond_noise(race, "near")
    assert protocol.beyond_noise(race, "far")
    assert protocol.ratio(race, "near").endswith("≈") and "≈" not in protocol.ratio(race, "far")


def test_every_round_has_everyone_once_and_the_first_twice_apart(clock: Clock) -> None:
    turns: list[str] = []
    contestants = {
        name: clock.taking(lambda name=name: turns.append(name) or 1.0) for name in "abcd"
    }
    list(paired_rounds(contestants, Effort(10, 1e9, warm_up=1, sample_ms=0)))
    turns = turns[4:]
    rounds = [turns[i : i + 5] for i in range(0, len(turns), 5)]
    assert len(rounds) == 10 and all(sorted(r) == ["a", "a", "b", "c", "d"] for r in rounds)
    assert len({r[0] for r in rounds}) == 4, "nobody is always the first to run"
    assert all("aa" not in "".join(r) for r in rounds)


def test_inputs_rotate_and_calls_that_settle_do_not_count(clock: Clock) -> None:
    given: list[int] = []

    def call(index: int) -> None:
        given.append(index)
        # After the one call of the warm-up, the first of two in a row is the slow one.
        clock.now += 0.007 if len(given) % 2 == 0 else 0.001

    effort = Effort(6, 1e9, warm_up=1, sample_ms=0, settling=1)
    contestant = Contestant(call, [(0,), (1,), (2,)], CPU)
    for times in paired_rounds({"a": contestant}, effort):
        assert times == {"a": pytest.approx(1), "again": pytest.approx(1)}
    settling, counted = given[1::2], given[2::2]
    assert len(given) == 1 + 2 * 12 and set(counted) == {0, 1, 2}
    assert all(a != b for a, b in zip(settling, counted, strict=True))


def test_short_calls_are_repeated_until_a_sample_lasts(clock: Clock) -> None:
    calls = []
    contestant = clock.taking(lambda: calls.append(0) or 0.5)
    (times,) = paired_rounds({"a": contestant}, Effort(1, 1e9, warm_up=2, sample_ms=5))
    assert len(calls) == 2 + 2 * 10 and times["a"] == pytest.approx(0.5)


def test_rounds_end_when_time_is_up_but_not_before_the_third(clock: Clock) -> None:
    contestant = clock.taking(lambda: 1000.0)
    assert len(list(paired_rounds({"a": contestant}, Effort(30, 0.5, 1, 0)))) == 3
    assert len(list(paired_rounds({"a": contestant}, Effort(30, 9.0, 1, 0)))) == 5


def test_single_runs_are_timed_one_by_one_after_the_warm_up(clock: Clock) -> None:
    slower = iter([100.0, 90.0, 1.0, 2.0, 3.0])
    runs = single_runs(clock.taking(lambda: next(slower)), runs=3, warm_up=2)
    assert list(runs) == [pytest.approx(value) for value in (1.0, 2.0, 3.0)]


def test_a_spread_lies_between_measurements_where_it_falls_between() -> None:
    found = spread([4.0, 1.0])
    assert (found.median, found.count) == (2.5, 2)
    assert (found.p10, found.p90) == (pytest.approx(1.3), pytest.approx(3.7))


# The whole measurement


def fake_engine(
    clock: Clock, milliseconds: float, *, wrong: float = 0.0
) -> Callable[[Subject], Prepared]:
    """An engine that computes right, or a little wrong, and takes so long."""

    def prepare(subject: Subject) -> Prepared:
        def call(images: Tensor) -> Tensor:
            clock.now += milliseconds / 1e3
            return subject.model(images) * (1 + wrong)

        inputs = [(images,) for images in subject.images]
        return Prepared(lambda: Loaded(Contestant(call, inputs, CPU)))

    return prepare


@pytest.fixture
def fakes(clock: Clock, tiny: None, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Engines whose times are known."""
    monkeypatch.setitem(ENGINES, "eager", fake_engine(clock, 20.0))
    monkeypatch.setitem(ENGINES, "prepared", fake_engine(clock, 10.0))
    monkeypatch.setitem(ENGINES, "compiled", fake_engine(clock, 5.0, wrong=0.01))
    return clock


@pytest.mark.parametrize("how", ["sound", "efficientmod"])
def test_what_takes_half_as_long_has_half_the_ratio(fakes: Clock, how: str) -> None:
    settings = LatencySettings(engines=("eager", "prepared"), protocol=how, **SMALL)
    table = last(measure_latency(TINY, settings))
    assert table.complete and table.protocol == how
    assert [(row.model, row.engine) for row in table.rows] == [
        (name, engine) for name in TINY for engine in ("eager", "prepared")
    ]
    assert [row.latency_ms for row in table.rows] == [pytest.approx(v) for v in (20, 10) * 2]
    assert [row.ratio for row in table.rows] == [pytest.approx(v) for v in (1, 0.5) * 2]
    sound = how == "sound"
    beyond = [row.beyond_noise for row in table.rows]
    assert beyond == ([False, True, False, True] if sound else [None] * 4)
    assert (table.noise.median == pytest.approx(1) if table.noise else None) == (sound or None)
    assert table.rounds == (4 if sound else 0)
    assert json.loads(json.dumps(table.to_plain()))["rows"][1]["ratio"] == pytest.approx(0.5)


def test_what_computes_something_else_is_not_timed(fakes: Clock) -> None:
    settings = LatencySettings(engines=("compiled", "prepared"), **SMALL)
    table = last(measure_latency(TINY[:1], settings))
    wrong, right = table.rows
    assert "compiled and eager differ by 1.0e-02" in wrong.reason and wrong.latency_ms is None
    # The first row that ran takes its place.
    assert right.ratio == 1 and right.reason == "" and right.disagreement == 0


def test_an_engine_that_fails_is_a_row_with_the_reason(
    fakes: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(subject: Subject) -> Prepared:
        raise RuntimeError("no kernel for this\nand a long trace")

    monkeypatch.setitem(ENGINES, "onnx", broken)
    settings = LatencySettings(engines=("eager", "onnx"), **SMALL)
    eager, failed = last(measure_latency(TINY[:1], settings)).rows
    assert failed.reason == "It cannot run this network (RuntimeError: no kernel for this)."
    assert failed.parameters == eager.parameters and eager.latency_ms == pytest.approx(20)
    settings = LatencySettings(engines=("onnx",), **SMALL)
    table = last(measure_latency(TINY[:1], settings))
    assert table.complete and table.timed == () and table.noise is None


def test_rows_grow_one_by_one_and_steps_are_counted(fakes: Clock) -> None:
    steps: list[tuple[int, int]] = []
    settings = LatencySettings(engines=("eager", "prepared"), **SMALL)
    tables = list(measure_latency(TINY, settings, lambda *step: steps.append(step)))
    assert [len(table.rows) for table in tables] == [1, 2, 3, 4, 4, 4, 4, 4, 4]
    assert [table.rounds for table in tables] == [0, 0, 0, 0, 1, 2, 3, 4, 4]
    assert [table.complete for table in tables] == [False] * 8 + [True]
    assert steps == [(done, 8) for done in range(1, 9)]
    # Two rounds have no noise floor yet.
    assert tables[5].noise is None and tables[5].rows[1].beyond_noise is None


def test_the_papers_protocol_finishes_a_row_before_the_next(fakes: Clock) -> None:
    settings = LatencySettings(engines=("eager", "prepared"), protocol="efficientmod", **SMALL)
    timed = [len(table.timed) for table in measure_latency(TINY[:1], settings)]
    assert timed == [0, 0, 1, 2, 2]


def test_wrong_names_are_known_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(run, "hardware", made.append)
    for models, words in {
        ("efficientmod_xsx",): "Did you mean 'efficientmod_xs'",
        ("timm:resnet10tt",): "Did you mean 'resnet10t'",
        ("timm:resnet10t", "timm:resnet10t"): "named twice",
    }.items():
        with pytest.raises(ValueError, match=words):
            next(measure_latency(models, LatencySettings(**SMALL)))
    assert not made


def test_settings_say_what_is_allowed() -> None:
    with pytest.raises(OptionError, match=r"no engine 'onx'\. Did you mean 'onnx'"):
        LatencySettings(engines=("onx",))
    with pytest.raises(OptionError, match="'eager' is named twice"):
        LatencySettings(engines=("eager", "onnx", "eager"))
    with pytest.raises(OptionError, match="protocol is one of sound, efficientmod"):
        LatencySettings(protocol="loud")
    for name in ("batch", "image_size", "threads", "runs"):
        wrong: dict[str, Any] = {name: 0}
        with pytest.raises(OptionError, match=f"{name.replace('_', ' ')} is 1 or more, got 0"):
            LatencySettings(**wrong)


# Engines


def loaded(engine: str, folder: Path) -> tuple[Subject, Loaded]:
    """A tiny network in an engine; always the same network."""
    model = shallow("efficientmod_xxs", depths=(1, 1, 1, 0), attention_depth=(0, 0, 0, 1))
    images = [torch.randn(2, 3, 32, 32) for _ in range(2)]
    subject = Subject("efficientmod_xxs", model, 32, images, 1, folder)
    return subject, ENGINES[engine](subject).load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where engines find each other's ONNX file."""
    return tmp_path_factory.mktemp("network")


@pytest.mark.parametrize("engine", ["eager", "prepared", "onnx", "openvino"])
def test_engines_compute_what_the_network_does(engine: str, folder: Path) -> None:
    needed = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "openvino")}
    for package in needed.get(engine, ()):
        pytest.importorskip(package)
    subject, ready = loaded(engine, folder)
    with torch.inference_mode():
        # The second input first: nothing may be left over from another call.
        for index in (1, 0):
            expected = subject.model(subject.images[index])
            output = ready.contestant.call(*ready.contestant.inputs[index])
            assert (output - expected).norm() <= 1e-5 * expected.norm()


def test_a_network_with_a_fuse_of_its_own_is_fused(tmp_path: Path) -> None:
    class Fusing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fused = nn.Conv2d(3, 4, 3), False

        def fuse(self) -> None:
            self.fused = True

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).mean((2, 3))

    model = Fusing().eval()
    subject = Subject("timm:fusing", model, 16, [torch.randn(1, 3, 16, 16)], 1, tmp_path)
    ready = ENGINES["prepared"](subject).load()
    assert getattr(ready.contestant.call, "fused") is True  # noqa: B009 - a module behind a call
    assert ready.note in engines.LAYOUTS and not model.fused


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    with pytest.raises(ImportError, match=r"needs onnxruntime.*foveal\[export\]"):
        loaded("onnx", tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_rows_say_so(tiny: None) -> None:
    settings = LatencySettings(engines=("cuda", "eager"), **SMALL)
    cuda, eager = last(measure_latency(TINY[:1], settings)).rows
    assert "no CUDA device" in cuda.reason and eager.ratio == 1 and eager.latency_ms


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_time_and_memory_are_its_own(tiny: None) -> None:
    settings = LatencySettings(engines=("cuda",), **SMALL)
    (row,) = last(measure_latency(TINY[:1], settings)).rows
    assert row.latency_ms and row.peak_memory_mb and row.peak_memory_mb > row.file_mb * 0.9


# What stands beside the times


def test_rows_know_sizes_work_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "create_model", shallow)
    settings = LatencySettings(engines=("eager",), **SMALL)
    (row,) = last(measure_latency(TINY[:1], settings)).rows
    model = shallow("efficientmod_xxs")
    assert row.parameters == sum(p.numel() for p in model.parameters())
    assert row.file_mb == pytest.approx(4 * row.parameters / 1e6, rel=0.05)
    assert row.gflop == pytest.approx(count_flops(model, 64))
    assert row.image_size == 64 and row.top1 is None
    if Path("/proc/self/clear_refs").exists():
        assert row.peak_memory_mb is not None and row.peak_memory_mb > 0


def test_flops_are_two_for_a_multiply_add_and_cost_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 5))
    assert count_flops(model, 8) == pytest.approx(2e-9 * (64 * 8 * 27 + 8 * 64 * 5))
    assert next(model.parameters()).device == CPU


def test_memory_is_what_was_added() -> None:
    meter = memory.MemoryMeter(CPU)
    if meter.megabytes() is None:
        pytest.skip("nothing tells of the memory here")
    block = torch.ones(10_000_000)
    # 40 MB, but for the pages that the process gave back or took for other things meanwhile.
    assert 39 <= (meter.megabytes() or 0) <= 60 and len(block)
    del block
    assert (memory.MemoryMeter(CPU).megabytes() or 0) < 20


def test_published_accuracies_belong_to_a_size() -> None:
    assert published_top1("efficientmod_xxs", 224) == WEIGHTS["efficientmod_xxs"][0].top1
    assert published_top1("efficientmod_xxs", 64) is None
    assert published_top1("transnext_small.in1k_384", 384) == 86.0
    assert published_top1("foveal_transnext_small", 384) == 86.0
    assert published_top1("timm:mobilevitv2_100", 256) == 78.1
    assert published_top1("timm:resnet10t", 224) is None


def test_threads_are_pinned_inside_and_free_again_outside() -> None:
    before = torch.get_num_threads()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with pinned_threads(1) as processors:
        assert torch.get_num_threads() == 1
        if allowed is not None:
            assert os.sched_getaffinity(0) == set(processors) and len(processors) == 1
    assert torch.get_num_threads() == before
    if allowed is not None:
        assert os.sched_getaffinity(0) == allowed


def test_processors_of_different_cores_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_siblings", lambda processor: f"{processor // 2}")
    assert threads._cores_first([0, 1, 2, 3, 5]) == [0, 2, 5, 1, 3]


def test_a_threads_end_does_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "999999999").mkdir()
    monkeypatch.setattr(threads, "_TASKS", tmp_path)
    with pinned_threads(1):
        pass


def test_hardware_names_versions_and_commit() -> None:
    found = hardware(CPU)
    assert found["onnxruntime"] is None or found["onnxruntime"] in described(found)
    assert (found["commit"] or found["foveal"]) in described(found)
    elsewhere = described({**found, "commit": None, "foveal": "0.1.0"})
    assert "foveal 0.1.0" in elsewhere and "None" not in elsewhere
    both = described({**found, "device": "A GPU", "processor": "A CPU, 2 threads"})
    assert both.startswith("A GPU and A CPU, 2 threads, ")
