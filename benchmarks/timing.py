"""Paired timing in one process: agreement first, then rounds in which every contestant runs.

A machine is never quiet for long, so times are only compared within a round, and the answer is the
median of the rounds' ratios. In every round the first contestant runs twice: the ratio of these two
is the noise floor, below which no difference is one.
"""

import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.errors import FovealError
from foveal.files import write_text
from foveal.tools.cost import device_name

Call = Callable[..., Any]

# Rotated, so that no result is of one lucky input.
NUM_INPUTS = 4
# Differences of outputs over their norm.
TOLERANCES = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 5e-2,
}
AGAIN = "again"


class ParityError(FovealError):
    """What was to be compared does not compute the same."""


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: at most.
        seconds: of all rounds together; the rounds end after it, yet not before the third.
        warm_up: calls of each contestant whose time does not count, one at least.
        sample_ms: a sample repeats its contestant until it lasts this long.
    """

    rounds: int = 30
    seconds: float = 20.0
    warm_up: int = 3
    sample_ms: float = 5.0


@dataclass(frozen=True)
class Spread:
    """The median of several measurements, and the tenths and ninetieths of them."""

    median: float
    p10: float
    p90: float
    count: int

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.p10:{spec}}–{self.p90:{spec}})"


@dataclass(frozen=True)
class Race:
    """What paired timing of some contestants found; the first is what all are compared with.

    Attributes:
        milliseconds: of one call, by contestant.
        times_faster: by contestant after the first, its time over the first's in the same round.
        noise: the first's second time over its first, in the same round.
        disagreement: by contestant, ‖its output − the first's‖ / ‖the first's‖; without strangers.
    """

    milliseconds: dict[str, Spread]
    times_faster: dict[str, Spread]
    noise: Spread
    disagreement: dict[str, float] = field(default_factory=dict)


def spread(values: Sequence[float]) -> Spread:
    """The median with p10 and p90, between measurements where they fall between."""
    ordered = sorted(values)
    return Spread(
        statistics.median(ordered), _quantile(ordered, 0.1), _quantile(ordered, 0.9), len(ordered)
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def race(
    contestants: Mapping[str, Call],
    inputs: Sequence[tuple[Any, ...]] | Mapping[str, Sequence[tuple[Any, ...]]],
    device: torch.device,
    effort: Effort,
    *,
    tolerance: float,
    strangers: Collection[str] = (),
) -> Race:
    """Time the contestants in rounds.

    Args:
        contestants: what is called, by name; the first is what the others are compared with.
        inputs: arguments of the calls, used in rotation; by contestant where they differ.
        device: that the inputs are on.
        effort: how long.
        tolerance: on the relative difference of the outputs, before and after.
        strangers: contestants that are not meant to compute the same.

    Raises:
        ParityError: outputs disagree.
    """
    names = list(contestants)
    given = inputs if isinstance(inputs, Mapping) else dict.fromkeys(names, inputs)
    alike = {name: call for name, call in contestants.items() if name not in strangers}
    before = _parity(alike, given, 0, tolerance)
    repeats = {}
    for name, call in contestants.items():
        once = math.inf
        for index in range(max(effort.warm_up, 1)):
            once = min(once, milliseconds_of(call, given[name], 1, device, first=index))
        repeats[name] = max(1, math.ceil(effort.sample_ms / max(once, 1e-3)))
    times: dict[str, list[float]] = {name: [] for name in (*names, AGAIN)}
    # The first's two turns lie apart, so that their ratio sees what other contestants' ratios see.
    order = [names[0], *names[1:], AGAIN]
    start = time.perf_counter()
    for index in range(effort.rounds):
        if index >= 3 and time.perf_counter() - start > effort.seconds:
            break
        shift = index % len(order)
        for turn in (*order[shift:], *order[:shift]):
            name = names[0] if turn == AGAIN else turn
            call, sets, count = contestants[name], given[name], repeats[name]
            times[turn].append(milliseconds_of(call, sets, count, device, first=index))
    after = _parity(alike, given, -1, tolerance)
    first, again = times[names[0]], times[AGAIN]
    return Race(
        {name: spread([*times[name], *(again if name == names[0] else ())]) for name in names},
        {
            name: spread(
                [2 * t / (a + b) for t, a, b in zip(times[name], first, again, strict=True)]
            )
            for name in names[1:]
        },
        spread([b / a for a, b in zip(first, again, strict=True)]),
        {name: max(before[name], after[name]) for name in before},
    )


def milliseconds_of(
    call: Call,
    inputs: Sequence[tuple[Any, ...]],
    repeats: int,
    device: torch.device,
    first: int = 0,
) -> float:
    """The mean over some calls with the inputs in turn, by the device's own clock if it has one."""
    turns = [inputs[(first + index) % len(inputs)] for index in range(repeats)]
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for args in turns:
            call(*args)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / repeats
    start = time.perf_counter()
    for args in turns:
        call(*args)
    return (time.perf_counter() - start) * 1e3 / repeats


def _parity(
    contestants: Mapping[str, Call],
    inputs: Mapping[str, Sequence[tuple[Any, ...]]],
    index: int,
    tolerance: float,
) -> dict[str, float]:
    """How much the others' outputs differ from the first's, if that is allowed."""
    (first, reference), *others = (
        (name, call(*inputs[name][index])) for name, call in contestants.items()
    )
    errors = {name: disagreement(output, reference) for name, output in others}
    for name, error in errors.items():
        # A NaN is not within any tolerance either.
        if not error <= tolerance:
            raise ParityError(
                f"{name} and {first} differ by {error:.1e} of the norm, {tolerance:.0e} is "
                "allowed: they do not compute the same, so their times say nothing."
            )
    return errors


def disagreement(output: Tensor | Sequence[Tensor], reference: Tensor | Sequence[Tensor]) -> float:
    """‖output − reference‖ / ‖reference‖, the worst of several tensors."""
    if isinstance(output, Tensor) and isinstance(reference, Tensor):
        difference = (output.detach().double() - reference.detach().double()).norm()
        return (difference / reference.detach().double().norm().clamp(min=1e-30)).item()
    return max(disagreement(a, b) for a, b in zip(output, reference, strict=True))


def beyond_noise(race: Race, name: str) -> bool:
    """Whether a contestant's ratio lies outside of what the first has with itself."""
    low, high = min(race.noise.p10, 1 / race.noise.p90), max(race.noise.p90, 1 / race.noise.p10)
    return not low <= race.times_faster[name].median <= high


def ratio(race: Race, name: str) -> str:
    """How many times faster the first is, with ≈ where that may as well be noise."""
    return f"{race.times_faster[name]:.2f}{'' if beyond_noise(race, name) else ' ≈'}"


def hardware(device: torch.device) -> dict[str, Any]:
    """Where and with what a measurement was made."""
    found: dict[str, Any] = {
        "device": device_name(device),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "timm", "triton", "foveal")},
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
            "gpu_processors": properties.multi_processor_count,
            **_driver(),
        }
    return found


def _driver() -> dict[str, str]:
    query = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm", "--format=csv,noheader"]
    try:
        text = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    driver, _, clock = text.splitlines()[0].partition(", ")
    return {"driver": driver, "clock_before": clock}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        run = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../src")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def write(output: Path, results: Mapping[str, Any], markdown: str) -> None:
    """The results as JSON and, beside it under the same name, as a page of Markdown."""
    write_text(output, json.dumps(results, indent=1, default=_plain) + "\n")
    write_text(output.with_suffix(".md"), markdown)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no place in a file of results.")


def described(found: Mapping[str, Any]) -> str:
    """`hardware` as a sentence for the foot of a table."""
    packages = ", ".join(f"{n} {found[n]}" for n in ("torch", "timm", "triton") if found.get(n))
    load = "" if found["load_before"] is None else f", load {found['load_before']} before the start"
    return (
        f"{found['device']}, {found['cpu_cores']} processor cores{load}; "
        f"{packages}, commit {found['commit']}, {found['date']}."
    )


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers, to the right."""
    marks = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, marks, *rows))
