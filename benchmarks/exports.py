"""Every network in every format: worst error at four sizes, file size, time beside eager.

python benchmarks/exports.py                          # from the repository's root; hours
python benchmarks/exports.py --only 'efficientmod_*'  # in parts; rows that are there are kept
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import foveal
from foveal.errors import FovealError
from foveal.files import write_text
from foveal.tools.export.check import check_sizes
from foveal.tools.export.formats import FORMATS, move_beside
from foveal.tools.export.program import program_of
from foveal.tools.export.subject import ExportOptions, Subject, subject_of
from foveal.tools.latency.hardware import described, hardware
from foveal.tools.latency.protocol import Effort, paired_rounds, race_of
from foveal.tools.trained import TrainedModel, model_by_name

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.golden import cases

RESULTS = Path(__file__).parent / "results" / "exports.json"

MOBILE = ("cloformer_xxs", "cloformer_xs", "efficientmod_xxs", "efficientmod_xs", "efficientmod_s")
SMALLEST = ("focalnet_tiny_srf", "transnext_micro", "dat_tiny", "dat_pp_tiny")
FOR_ALL = ("onnx", "torch-export")
FOR_SMALL = ("openvino", "aoti", "executorch")
EFFORT = Effort(rounds=15, seconds=30.0, warm_up=2, sample_ms=50.0, settling=0)


def wanted(pattern: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Networks, those of fewest parameters first, and the formats of each."""
    sizes = {
        name: sum(p.numel() for p in foveal.create_model(name, device="meta").parameters())
        for name in foveal.list_models(pattern)
    }
    for name in sorted(sizes, key=lambda name: sizes[name]):
        yield name, FOR_ALL + (FOR_SMALL if name in MOBILE + SMALLEST else ())


def with_golden_weights(name: str) -> TrainedModel:
    """A network whose every table, offset and layer scale matters, the same on every machine."""
    trained = model_by_name(name)
    model: Any = trained.model
    official = cases.official_weights(name, model)
    single = {key: value.float() for key, value in official.items()}
    model.load_state_dict(foveal.convert_state_dict(name, single))
    return trained


def measure(name: str, formats: list[str]) -> Iterator[dict[str, Any]]:
    """A row a format; a program is traced once for all that can share it."""
    trained = with_golden_weights(name)
    programs: dict[bool, Any] = {}
    for format in formats:
        row: dict[str, Any] = {"network": name, "format": format}
        start = time.perf_counter()
        kind = FORMATS[format].is_bounded
        subject = subject_of(trained, ExportOptions(image_size=(224, 224), bounded=kind))
        try:
            if kind not in programs:
                programs[kind] = program_of(subject)
            row |= measured_file(programs[kind], subject, format)
        except FovealError as error:
            row["fault"] = str(error)
        row["seconds"] = round(time.perf_counter() - start, 1)
        yield row | {"where": hardware(torch.device("cpu"))}


def measured_file(program: Any, subject: Subject, format: str) -> dict[str, Any]:
    """Written, opened, run at four sizes, and timed beside the network."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "new", f"model{FORMATS[format].suffix}")
        file.parent.mkdir()
        FORMATS[format].write(program, subject, file)
        files = move_beside(file, Path(folder, file.name))
        run = FORMATS[format].open(files[0])
        checks = check_sizes(subject, run)
        image = subject.image(1, 224, 224)
        cpu = torch.device("cpu")
        with torch.no_grad():
            contestants = {
                "eager": (subject.module, [(image,)], cpu),
                "file": (run, [(image.clone(),)], cpu),
            }
            race = race_of(list(paired_rounds(contestants, EFFORT)), list(contestants))
        return {
            "errors": {" × ".join(map(str, check.shape)): check.error for check in checks},
            "worst_error": max(check.error for check in checks),
            "megabytes": sum(path.stat().st_size for path in files) / 1e6,
            "time_of_eager": asdict(race.times_faster["file"]),
            "noise": asdict(race.noise),
        }


def read_rows() -> dict[tuple[str, str], dict[str, Any]]:
    """The rows that are there, by network and format."""
    if not RESULTS.exists():
        return {}
    return {(row["network"], row["format"]): row for row in json.loads(RESULTS.read_text())}


def table(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> str:
    """Markdown, a line a network and a format."""
    lines = [
        "| network | format | worst error | file, MB | time, of eager's | exported in | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, format), row in rows.items():
        took = f"{row['seconds']:.0f} s | {row['where']['commit']} |"
        if "fault" in row:
            lines.append(f"| {name} | {format} | {row['fault']} | | | {took}")
            continue
        ratio = row["time_of_eager"]
        lines.append(
            f"| {name} | {format} | {row['worst_error']:.1e} | {row['megabytes']:.1f} | "
            f"{ratio['median']:.2f} ({ratio['p10']:.2f} to {ratio['p90']:.2f}) | {took}"
        )
    networks = len({name for name, _ in rows})
    places: dict[str, list[float]] = {}
    for row in rows.values():
        place = described({**row["where"], "load_before": None, "date": row["where"]["date"][:10]})
        places.setdefault(place, []).append(row["where"]["load_before"])
    return "\n".join(
        [
            f"# Exports: {networks} of {len(foveal.list_models())} networks",
            "",
            "`python benchmarks/exports.py`. Worst difference from eager, of the largest output, "
            "at 2 × 224 × 224 (traced), 1 × 168 × 291, 1 × 100 × 100 (128 for "
            "`transnext_micro_aaaa`) and 3 × 313 × 313, with the weights of the golden tests; "
            "time of one image of 224 × 224 beside eager's in paired rounds (median, p10 to p90; "
            "below 1 is faster than eager).",
            "",
            *lines,
            "",
            "Measured on:",
            "",
            *(
                f"- {p} Load before a row {min(loads)} to {max(loads)}."
                for p, loads in places.items()
            ),
            "",
        ]
    )


def save(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
    """Write the rows, network by network."""
    networks, formats = foveal.list_models(), list(FORMATS)
    keys = sorted(rows, key=lambda key: (networks.index(key[0]), formats.index(key[1])))
    write_text(RESULTS, json.dumps([rows[key] for key in keys], indent=1) + "\n")
    write_text(RESULTS.with_suffix(".md"), table({key: rows[key] for key in keys}))


def rows_of(name: str, formats: list[str], minutes: float) -> Iterator[dict[str, Any]]:
    """From a process each, whose memory is given back; a row that takes too long is a fault."""
    while formats:
        command = [sys.executable, __file__, "--worker", name, *formats]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            while formats:
                alarm = threading.Timer(60 * minutes, worker.kill)
                alarm.start()
                line = next((line for line in worker.stdout if line.startswith("{")), None)
                in_time = alarm.is_alive()
                alarm.cancel()
                if line is None:
                    break
                yield json.loads(line)
                formats = formats[1:]
        if formats and in_time:
            sys.exit(f"The process of {name} ended before its row of {formats[0]}.")
        if formats:
            where = hardware(torch.device("cpu"))
            fault = f"not there after {minutes:g} minutes"
            yield {
                "network": name,
                "format": formats[0],
                "fault": fault,
                "seconds": 60 * minutes,
                "where": where,
            }
            formats = formats[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="networks by a pattern")
    parser.add_argument("--formats", default=",".join(FOR_ALL + FOR_SMALL))
    parser.add_argument("--minutes", type=float, default=30, help="that a row may take")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        for row in measure(given.worker[0], given.worker[1:]):
            print(json.dumps(row), flush=True)
        return
    for name, formats in wanted(given.only):
        rows = read_rows()
        left = [f for f in formats if (name, f) not in rows and f in given.formats.split(",")]
        for row in rows_of(name, left, given.minutes):
            save({**read_rows(), (name, row["format"]): row})
            print(name, row["format"], row.get("fault", row.get("worst_error")), flush=True)


if __name__ == "__main__":
    main()
