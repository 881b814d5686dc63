"""Detectors and segmenters on real pictures: the same head and recipe on our backbones and peers.

python benchmarks/dense.py train --bccd DIR --camvid DIR --output RUNS     # goes on if stopped
python benchmarks/dense.py table --bccd DIR --camvid DIR --output RUNS
python benchmarks/dense.py train --bccd DIR --output RUNS --heads retinanet --models cloformer_xxs

BCCD is a folder of COCO files (train.json, val.json, test.json) and images/, CamVid a mask folder.
The settings suit one core: small pictures and narrow heads. `table` judges what is there by the
test pictures, writes benchmarks/results/dense.md and draws docs/images/dense_*.png.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.dense_plots import draw_objects, draw_scenes
from foveal.files import write_text
from foveal.tools.dense import load_detector, load_segmenter
from foveal.tools.latency.hardware import described, hardware

RESULTS = Path(__file__).parent / "results" / "dense.json"
PICTURES = Path(__file__).parents[1] / "docs" / "images"

MODELS = ("efficientmod_xxs", "timm:resnet18")
# What the model in the box can give its weights to; the others start from noise.
IN_THE_BOX = ("efficientmod_xxs",)

_RCNN = {
    "fpn_channels": 96,
    "representation_size": 256,
    "rpn_post_nms_top_n_train": 500,
    "rpn_post_nms_top_n_test": 300,
    "box_batch_size_per_image": 128,
}
_DETR = {"encoder_layers": 1, "decoder_layers": 3, "num_queries": 100}
NARROW: dict[str, dict[str, int]] = {
    "faster_rcnn": _RCNN,
    "cascade_rcnn": _RCNN,
    "retinanet": {"fpn_channels": 96},
    "d_fine": _DETR,
    "semantic_fpn": {"pyramid_channels": 128, "channels": 64},
    "upernet": {"channels": 96, "auxiliary_channels": 64},
}
TASKS = {
    "detection": ("faster_rcnn", "retinanet", "cascade_rcnn", "d_fine"),
    "segmentation": ("semantic_fpn", "upernet"),
}
DEFAULT_HEADS = ("faster_rcnn", "semantic_fpn")
BATCH = 4
# Of what `foveal eval` writes; its lists of files stay where the pictures are.
FIGURES = ("classes", "boxes", "per_class", "curves", "miou", "macc", "aacc")
SETTINGS: dict[str, tuple[str, ...]] = {
    "detection": (
        *("--scales", "[240,256,272,288,304]", "--max-side", "480", "--eval-scale", "272"),
        *("--epochs", "12", "--batch-size", str(BATCH), "--lr", "5e-4"),
    ),
    "segmentation": (
        *("--scales", "[320]", "--jitter", "[0.5,1.5]", "--crop", "[192,192]"),
        *("--epochs", "16", "--batch-size", str(BATCH), "--lr", "7e-4"),
    ),
}


@dataclass(frozen=True)
class Run:
    """A head on a backbone, trained on one of the two collections."""

    task: str
    head: str
    model: str
    data: Path

    def folder(self, runs: Path) -> Path:
        return runs / f"{self.head}_{self.model.removeprefix('timm:')}"

    @property
    def start(self) -> str:
        return "box" if self.model in IN_THE_BOX else "noise"

    def is_finished(self, runs: Path) -> bool:
        """Whether its last epoch has been judged."""
        file = self.folder(runs) / "metrics.jsonl"
        epochs = int(SETTINGS[self.task][SETTINGS[self.task].index("--epochs") + 1])
        return file.exists() and len(history(file.parent)[2]) == epochs

    def train(self, runs: Path) -> list[str]:
        """The arguments of `foveal train`."""
        data = ("--data", str(self.data))
        if self.task == "detection":
            data = ("--data", f"{self.data}/train.json", "--val-data", f"{self.data}/val.json")
            data = (*data, "--images", f"{self.data}/images")
        options = (f"{name}={value}" for name, value in NARROW[self.head].items())
        return [
            *("train", "--task", self.task, "--head", self.head, "--model", self.model, *data),
            *("--output", str(self.folder(runs)), *SETTINGS[self.task]),
            *(word for option in options for word in ("--head-option", option)),
            *(("--checkpoint", "box") if self.start == "box" else ()),
            *("--workers", "0", "--threads", "1", "--checkpoint-every", "50", "--resume"),
        ]

    def judge(self, runs: Path, report: Path) -> list[str]:
        """The arguments of `foveal eval` on the test pictures."""
        folder = self.folder(runs)
        data = (
            ("--data", f"{self.data}/test.json", "--images", f"{self.data}/images")
            if self.task == "detection"
            else ("--data", str(self.data), "--split", "test")
        )
        outcome = ("--json", str(folder / "test.json"), "--report", str(report))
        return ["eval", "--task", self.task, "--checkpoint", str(folder), *data, *outcome]


def runs_of(args: argparse.Namespace) -> Iterator[Run]:
    """What was asked for, detectors first."""
    for task, data in (("detection", args.bccd), ("segmentation", args.camvid)):
        for head in TASKS[task]:
            if data is not None and head in args.heads:
                yield from (Run(task, head, model, data) for model in args.models)


def foveal(arguments: Sequence[str]) -> None:
    """The command, on one thread as the run itself."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "foveal.cli.main", *arguments]
    subprocess.run(command, check=True, env=environment)


def history(folder: Path) -> tuple[list[float], list[float], list[tuple[int, float]]]:
    """The loss and the seconds of each step, and the scores on the validation pictures."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records]
    seconds = [BATCH / record["images_per_second"] for record in records]
    scores = [(r["step"], r.get("map_50", r.get("miou"))) for r in records if "epoch" in r]
    return losses, seconds, scores


def row_of(run: Run, runs: Path) -> dict[str, Any]:
    """Judge a run, and what it came to."""
    folder = run.folder(runs)
    if not (folder / "test.json").exists():
        foveal(run.judge(runs, folder / "test.html"))
    load: Any = load_detector if run.task == "detection" else load_segmenter
    model = load(folder).model
    losses, seconds, scores = history(folder)
    found = json.loads((folder / "test.json").read_text())
    return {
        **asdict(run),
        "data": run.data.name,
        "start": run.start,
        "parameters": sum(p.numel() for p in model.parameters()),
        "backbone_parameters": sum(p.numel() for p in model.pyramid().model.parameters()),
        "steps": len(losses),
        "minutes": sum(seconds) / 60,
        "first": statistics.median(losses[:20]),
        "last": statistics.median(losses[-20:]),
        "losses": [round(loss, 4) for loss in losses],
        "scores": scores,
        "test": {key: value for key, value in found.items() if key in FIGURES},
        "command": "foveal " + " ".join(run.train(Path("RUNS"))).replace(str(run.data), "DATA"),
        "where": hardware(torch.device("cpu")),
    }


def _common(row: Mapping[str, Any]) -> str:
    return (
        f"| {row['head']} | {row['model']} | {row['start']} | {row['parameters'] / 1e6:.1f} "
        f"({row['backbone_parameters'] / 1e6:.1f}) | {row['steps']} | {row['minutes']:.0f} | "
        f"{row['first']:.3f} | {row['last']:.3f} | {row['last'] / row['first']:.2f} |"
    )


_COLUMNS = (
    "| head | backbone | start | parameters, M (backbone) | steps | minutes | loss, first 20 | "
    "last 20 | ratio |"
)


def object_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    classes = rows[0]["test"]["classes"]
    yield _COLUMNS + " mAP | mAP50 |" + "".join(f" {name} |" for name in classes)
    yield "|" + "---|" * (11 + len(classes))
    for row in rows:
        test = row["test"]
        each = {entry["name"]: entry["map_50"] for entry in test["per_class"]}
        yield (
            f"{_common(row)} {test['boxes']['map']:.3f} | **{test['boxes']['map_50']:.3f}** |"
            + "".join(f" {each[name]:.3f} |" for name in classes)
        )


def scene_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield _COLUMNS + " mIoU | mAcc | aAcc |"
    yield "|" + "---|" * 12
    for row in rows:
        test = row["test"]
        yield f"{_common(row)} **{test['miou']:.1f}** | {test['macc']:.1f} | {test['aacc']:.1f} |"


def text_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables, and the commands that made them."""
    by_task = {task: [row for row in rows if row["task"] == task] for task in TASKS}
    lines = ["# Detectors and segmenters on real pictures", ""]
    if by_task["detection"]:
        lines += ["## Blood cells (BCCD): 205 pictures to learn from, 72 to be judged by", ""]
        lines += [*object_lines(by_task["detection"]), "", "mAP50 by class on the right.", ""]
    if by_task["segmentation"]:
        lines += ["## Street scenes (CamVid): 367 to learn from, 233 to be judged by", ""]
        lines += [*scene_lines(by_task["segmentation"]), "", "In per cent, at 480 × 360.", ""]
    lines += [
        "`box`: the backbone starts from the model in the box, which has seen 50,000 photographs "
        "of 64 pixels; `noise`: from nothing. Minutes: of the steps, on one thread beside two "
        "or three other processes on two cores. Losses: medians over 20 steps. Judged: the "
        "checkpoint that did best on the validation pictures. One seed.",
        "",
        "Commands (`python benchmarks/dense.py train`):",
        "",
        *(f"- `{row['command']}`" for row in rows),
        "",
        "Measured on:",
        "",
        *sorted({f"- {described({**row['where'], 'load_before': None})}" for row in rows}),
        "",
    ]
    return "\n".join(lines)


def write_table(args: argparse.Namespace) -> None:
    found = [run for run in runs_of(args) if run.is_finished(args.output)]
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    rows = {(row["head"], row["model"]): row for row in known}
    rows |= {(run.head, run.model): row_of(run, args.output) for run in found}
    write_text(RESULTS, json.dumps(list(rows.values())) + "\n")
    write_text(RESULTS.with_suffix(".md"), text_of(list(rows.values())))
    for task, draw in (("detection", draw_objects), ("segmentation", draw_scenes)):
        chosen = [row for row in rows.values() if row["task"] == task]
        if chosen:
            draw(chosen, PICTURES / f"dense_{task}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["train", "table"])
    parser.add_argument("--bccd", type=Path)
    parser.add_argument("--camvid", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--heads", nargs="+", default=DEFAULT_HEADS, choices=list(NARROW))
    parser.add_argument("--models", nargs="+", default=MODELS)
    args = parser.parse_args()
    if args.step == "train":
        for run in runs_of(args):
            foveal(run.train(args.output))
    else:
        write_table(args)


if __name__ == "__main__":
    main()
