"""How time is taken: paired rounds with a noise floor, or one after the other as papers do.

A machine is never quiet for long, so times are only compared within a round, and the answer is the
median of the rounds' ratios. In every round the first contestant runs twice: the ratio of these two
is the noise floor, below which no difference is one.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from foveal.tools.latency.spread import Spread, spread

Call = Callable[..., Any]

# Rotated, so that no result is of one lucky input.
NUM_INPUTS = 4
AGAIN = "again"


class Contestant(NamedTuple):
    """What is timed.

    Attributes:
        call: itself.
        inputs: arguments of the calls, used in rotation.
        device: that the inputs are on, and whose clock counts.
    """

    call: Call
    inputs: Sequence[tuple[Any, ...]]
    device: torch.device


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: at most.
        seconds: of all rounds together; the rounds end after it, yet not before the third.
        warm_up: calls of each contestant whose time does not count, one at least.
        sample_ms: a sample repeats its contestant until it lasts this long.
        settling: calls before each sample that do not count, so that a contestant finds its own
            data in the caches and nobody else's threads still waiting for work.
    """

    rounds: int = 30
    seconds: float = 20.0
    warm_up: int = 3
    sample_ms: float = 5.0
    settling: int = 0


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


def paired_rounds(
    contestants: Mapping[str, Contestant], effort: Effort
) -> Iterator[dict[str, float]]:
    """Rounds in which every contestant runs once and the first, as `AGAIN`, once more.

    Yields:
        Milliseconds of one call by name, a round at a time, after the warm-up of all.
    """
    names = list(contestants)
    repeats = {name: _warmed_up(contestant, effort) for name, contestant in contestants.items()}
    # The first's two turns lie apart, so that their ratio sees what other contestants' ratios see.
    order = list(names)
    order.insert(len(names) // 2 + 1, AGAIN)
    start = time.perf_counter()
    for index in range(effort.rounds):
        if index >= 3 and time.perf_counter() - start > effort.seconds:
            return
        shift = index % len(order)
        times = {}
        for turn in (*order[shift:], *order[:shift]):
            name = names[0] if turn == AGAIN else turn
            call, inputs, device = contestants[name]
            if effort.settling:
                milliseconds_of(call, inputs, effort.settling, device, first=index + 1)
            times[turn] = milliseconds_of(call, inputs, repeats[name], device, first=index)
        yield times


def _warmed_up(contestant: Contestant, effort: Effort) -> int:
    """How many calls last as long as a sample should, by the fastest of those of the warm-up."""
    call, inputs, device = contestant
    once = math.inf
    for index in range(max(effort.warm_up, 1)):
        once = min(once, milliseconds_of(call, inputs, 1, device, first=index))
    return max(1, math.ceil(effort.sample_ms / max(once, 1e-3)))


def race_of(
    rounds: Sequence[Mapping[str, float]],
    names: Sequence[str],
    disagreement: Mapping[str, float] | None = None,
) -> Race:
    """What rounds come to; the first of `names` is what the others are compared with."""
    first, again = names[0], AGAIN
    both = [times[turn] for turn in (first, again) for times in rounds]
    return Race(
        {n: spread(both if n == first else [times[n] for times in rounds]) for n in names},
        {n: spread([2 * t[n] / (t[first] + t[again]) for t in rounds]) for n in names[1:]},
        spread([times[again] / times[first] for times in rounds]),
        dict(disagreement or {}),
    )


def single_runs(contestant: Contestant, runs: int, warm_up: int) -> Iterator[float]:
    """The milliseconds of one call after the other, each timed on its own, without rounds."""
    call, inputs, device = contestant
    for index in range(warm_up):
        milliseconds_of(call, inputs, 1, device, first=index)
    for index in range(runs):
        yield milliseconds_of(call, inputs, 1, device, first=index)


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


def is_beyond(ratio: float, noise: Spread) -> bool:
    """Whether a ratio of times lies outside of what a contestant has with itself."""
    low, high = min(noise.p10, 1 / noise.p90), max(noise.p90, 1 / noise.p10)
    return not low <= ratio <= high


def beyond_noise(race: Race, name: str) -> bool:
    """Whether a contestant's ratio lies outside of what the first has with itself."""
    return is_beyond(race.times_faster[name].median, race.noise)


def ratio(race: Race, name: str) -> str:
    """How many times faster the first is, with ≈ where that may as well be noise."""
    return f"{race.times_faster[name]:.2f}{'' if beyond_noise(race, name) else ' ≈'}"
