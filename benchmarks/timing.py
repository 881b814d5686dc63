"""What benchmarks share beside `foveal.tools.latency`: races held to parity, and their files."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from foveal.files import write_text
from foveal.tools.latency.hardware import described, hardware
from foveal.tools.latency.parity import TOLERANCES, ParityError, disagreement, require_agreement
from foveal.tools.latency.protocol import (
    NUM_INPUTS,
    Call,
    Contestant,
    Effort,
    Race,
    beyond_noise,
    milliseconds_of,
    paired_rounds,
    race_of,
    ratio,
)
from foveal.tools.latency.spread import Spread, spread

__all__ = [
    "NUM_INPUTS",
    "TOLERANCES",
    "Effort",
    "ParityError",
    "Race",
    "Spread",
    "beyond_noise",
    "described",
    "disagreement",
    "hardware",
    "milliseconds_of",
    "race",
    "ratio",
    "spread",
    "table",
    "write",
]


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
    ready = {name: Contestant(call, given[name], device) for name, call in contestants.items()}
    rounds = list(paired_rounds(ready, effort))
    after = _parity(alike, given, -1, tolerance)
    return race_of(rounds, names, {name: max(before[name], after[name]) for name in before})


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
        require_agreement(error, name, first, tolerance)
    return errors


def write(output: Path, results: Mapping[str, Any], markdown: str) -> None:
    """The results as JSON and, beside it under the same name, as a page of Markdown."""
    write_text(output, json.dumps(results, indent=1, default=_plain) + "\n")
    write_text(output.with_suffix(".md"), markdown)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no place in a file of results.")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers, to the right."""
    marks = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, marks, *rows))
