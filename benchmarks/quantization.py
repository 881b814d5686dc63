"""The model in the box in 8 bits: accuracy, size, time, and the layers that suffer most.

python benchmarks/quantization.py PHOTOS [--formats onnx,openvino,torchao] [--rank] [--latency]

PHOTOS/{train,val}/CLASS/image, as `benchmarks/small_images.py images --classes 100` writes it:
calibrated with 256 of `train`, judged by all of `val`. Files stay in PHOTOS/int8. Each call adds
what it found to benchmarks/results/quantization.{json,md}.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foveal.cli.progress import progress_bar
from foveal.cli.quantize import plain_quantization
from foveal.files import write_text
from foveal.tools.box import load_boxed
from foveal.tools.evaluate import EvaluationSettings, find_images
from foveal.tools.export.formats import FORMATS, Run
from foveal.tools.export.program import program_of
from foveal.tools.export.subject import ExportOptions, subject_of
from foveal.tools.latency.hardware import described, hardware
from foveal.tools.latency.protocol import Contestant, Effort, paired_rounds, race_of
from foveal.tools.quantize.calibration import calibration_images
from foveal.tools.quantize.options import SUFFIXES, QuantizeOptions
from foveal.tools.quantize.run import quantize_model
from foveal.tools.quantize.weight_only import load_quantized
from foveal.tools.trained import TrainedModel

RESULTS = Path(__file__).parent / "results" / "quantization.json"
CPU = torch.device("cpu")


def quantized(trained: TrainedModel, photos: Path, format: str, rank: bool) -> dict[str, Any]:
    """The report on one format, as plain values without paths."""
    images = calibration_images(photos, trained.card.preprocessing, 256)
    judged = find_images(trained, photos, split="val")
    options = QuantizeOptions(format=format, rank_layers=rank)
    target = photos / "int8" / f"box{SUFFIXES[format]}"
    with progress_bar("steps") as done:
        settings = EvaluationSettings(batch_size=64)
        found = quantize_model(trained, target, images, options, judged, settings, done)
    plain = plain_quantization(found)
    return {**plain, "files": [path.name for path in found.files]}


def latency(trained: TrainedModel, folder: Path, rounds: int = 60) -> dict[str, Any]:
    """One image at a time on one thread: every file beside the network in eager PyTorch."""
    side = trained.card.preprocessing.image_size
    subject = subject_of(trained, ExportOptions(image_size=(side, side)))
    program = program_of(subject)
    calls: dict[str, Any] = {"eager float32": trained.model}
    for format in ("onnx", "openvino"):
        file = folder / f"float{SUFFIXES[format]}"
        FORMATS[format].write(program, subject, file)
        calls[f"{format} float32"] = _call(FORMATS[format].open(file))
        calls[f"{format} int8"] = _call(FORMATS[format].open(folder / f"box{SUFFIXES[format]}"))
    calls["torchao int8"] = load_quantized(folder / "box.safetensors").model
    inputs = [(torch.randn(1, 3, side, side),) for _ in range(4)]
    contestants = {name: Contestant(call, inputs, CPU) for name, call in calls.items()}
    effort = Effort(rounds=rounds, seconds=60, settling=1)
    with torch.inference_mode():
        times = list(paired_rounds(contestants, effort))
    race = race_of(times, list(contestants))
    return {
        "milliseconds": {name: float(s.median) for name, s in race.milliseconds.items()},
        "times_eager": {name: float(s.median) for name, s in race.times_faster.items()},
        "noise": [race.noise.p10, race.noise.p90],
        "rounds": len(times),
        "image_size": side,
        "hardware": hardware(CPU),
    }


def _call(run: Run) -> Any:
    return lambda image: np.asarray(run(image)[0])


def markdown(found: dict[str, Any]) -> str:
    """The tables of what is known so far."""
    lines = [
        "# The model in the box in 8 bits",
        "",
        "`efficientmod_xxs`, 100 classes at 64 pixels, calibrated with 256 training images "
        "(weights alone need none), judged by the validation images, which it was not trained on. "
        "`python benchmarks/quantization.py PHOTOS`.",
        "",
        "| format | float32 top-1 % | int8 top-1 % | same class % | float32 MB | int8 MB | share % "
        "| layers in float | error at 64 × 64, 64 × 83, 89 × 89 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for format, report in found.get("formats", {}).items():
        accuracy, sizes = report["accuracy"], report["sizes"]
        errors = ", ".join(f"{sizes[place]['error']:.3f}" for place in (0, 1, 3))
        lines.append(
            f"| `{format}` | {accuracy['float32']:.2f} | {accuracy['file']:.2f} "
            f"| {accuracy['agreement']:.2f} | {report['float_megabytes']:.2f} "
            f"| {report['megabytes']:.2f} | {100 * report['share']:.1f} "
            f"| {len(report['kept_float'])} of {len(report['layers'])} | {errors} |"
        )
    if "latency" in found:
        lines += _latency_lines(found["latency"])
    for format, report in found.get("formats", {}).items():
        if report["ranking"]:
            lines += ["", f"Layers that change the logits most alone in int8, `{format}`:", ""]
            lines += ["| layer | error of the logits |", "|---|---:|"]
            lines += [f"| `{r['name']}` | {r['error']:.4f} |" for r in report["ranking"][:12]]
    return "\n".join(lines) + "\n"


def _latency_lines(found: dict[str, Any]) -> list[str]:
    low, high = found["noise"]
    return [
        "",
        f"One image of {found['image_size']} pixels on one thread, files of any size, medians of "
        f"{found['rounds']} paired rounds; eager beside itself: {low:.2f} to {high:.2f}.",
        "",
        "| | ms | × eager |",
        "|---|---:|---:|",
        *(
            f"| {name} | {value:.2f} | {found['times_eager'].get(name, 1.0):.2f} |"
            for name, value in found["milliseconds"].items()
        ),
        "",
        described(found["hardware"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--formats", default="")
    parser.add_argument("--rank", action="store_true")
    parser.add_argument("--latency", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"formats": {}}
    for format in filter(None, given.formats.split(",")):
        found["formats"][format] = quantized(load_boxed(), given.photos, format, given.rank)
        write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    if given.latency:
        found["latency"] = latency(load_boxed(), given.photos / "int8")
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    write_text(RESULTS.with_suffix(".md"), markdown(found))


if __name__ == "__main__":
    main()
