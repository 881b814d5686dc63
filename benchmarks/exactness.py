"""Worst relative error of every family against the official networks' recorded numbers.

python benchmarks/exactness.py     # from the repository's root; prints docs/exactness.md's table
"""

import sys
from collections import defaultdict
from pathlib import Path

import torch
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.golden import cases


def forward_error(name: str, dtype: torch.dtype) -> float:
    """Of the output and of every recorded module output."""
    case = cases.load(name)
    model = cases.build(case, dtype)
    with torch.no_grad():
        output = case.output(model, case.image(dtype))
    taps = cases.tap_errors(case, model, case.image(dtype))
    return max(cases.relative_error(output, case.arrays["logits"]), *taps.values())


def main() -> None:
    rows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name in track(cases.CASES, description="cases", transient=True):
        row = rows[name.split("_")[0]]
        row["cases"] += 1
        row["float64"] = max(row["float64"], forward_error(name, torch.float64))
        row["float32"] = max(row["float32"], forward_error(name, torch.float32))
        if name in cases.WITH_GRADIENTS:
            case = cases.load(name)
            row["gradient"] = max(row["gradient"], cases.backward(case, cases.build(case)))
    print("| family | cases | outputs, float64 | outputs, float32 | input gradient, float64 |")
    print("|---|---|---|---|---|")
    for family, row in rows.items():
        errors = " | ".join(f"{row[k]:.1e}" for k in ("float64", "float32", "gradient"))
        print(f"| {family} | {row['cases']:.0f} | {errors} |")


if __name__ == "__main__":
    main()
