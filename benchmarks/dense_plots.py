"""How the losses and the scores of benchmarks/dense.py went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from foveal.files import atomic_path
from foveal.tools.latency.plot import COLOURS, plain_numbers

Rows = Sequence[Mapping[str, Any]]

# Steps that a loss is averaged over, to be seen among its neighbours.
WINDOW = 20


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['head']}, {row['model'].removeprefix('timm:')}"


def draw_objects(rows: Rows, output: Path) -> None:
    """Losses, mAP50 of the validation pictures, and precision against recall on the test ones."""
    classes = rows[0]["test"]["classes"]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    _losses(axes[0], rows)
    _scores(axes[1], rows, "mAP50, validation", 1)
    styles = dict(zip(classes, ("-", "--", ":"), strict=False))
    for row, colour in zip(rows, COLOURS, strict=False):
        for curve in row["test"]["curves"]:
            if curve["iou"] == 0.5:
                axes[2].plot(
                    curve["recall"],
                    curve["precision"],
                    styles.get(curve["name"], "-."),
                    color=colour,
                    label=curve["name"] if row is rows[0] else None,
                )
    axes[2].set(xlabel="recall", ylabel="precision at IoU 0.5, test", ylim=(0, 1.02), xlim=(0, 1))
    legend = axes[2].legend(loc="lower left", frameon=False)
    for handle in legend.legend_handles:
        handle.set_color("#555555")
    _save(figure, output)


def draw_scenes(rows: Rows, output: Path) -> None:
    """Losses, mIoU of the validation scenes, and each class's IoU on the test ones."""
    classes = [entry["name"] for entry in rows[0]["test"]["per_class"]]
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    _losses(axes[0], rows)
    _scores(axes[1], rows, "mIoU in per cent, validation", 100)
    height = 0.8 / len(rows)
    for place, (row, colour) in enumerate(zip(rows, COLOURS, strict=False)):
        ious = [entry["iou"] or 0.0 for entry in row["test"]["per_class"]]
        where = np.arange(len(classes)) + (place - (len(rows) - 1) / 2) * height
        axes[2].barh(where, ious, height, color=colour)
    axes[2].set_yticks(range(len(classes)), classes)
    axes[2].invert_yaxis()
    axes[2].set(xlabel="IoU in per cent, test", xlim=(0, 100))
    _save(figure, output)


def _losses(axes: Axes, rows: Rows) -> None:
    for row, colour in zip(rows, COLOURS, strict=False):
        losses = np.asarray(row["losses"])
        smooth = np.convolve(losses, np.ones(WINDOW) / WINDOW, "valid")
        axes.plot(np.arange(len(losses)), losses, color=colour, alpha=0.15, linewidth=0.5)
        axes.plot(np.arange(len(smooth)) + WINDOW / 2, smooth, color=colour, label=_name(row))
    axes.set(xlabel="step", ylabel="training loss", yscale="log")
    plain_numbers(axes.yaxis, [loss for row in rows for loss in row["losses"]])
    axes.legend(frameon=False)


def _scores(axes: Axes, rows: Rows, label: str, most: float) -> None:
    for row, colour in zip(rows, COLOURS, strict=False):
        axes.plot(*zip(*row["scores"], strict=True), "o-", color=colour, markersize=3)
    axes.set(xlabel="step", ylabel=label, ylim=(0, most))
    axes.grid(alpha=0.2)


def _save(figure: Figure, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format=output.suffix[1:], dpi=110)
    plt.close(figure)
