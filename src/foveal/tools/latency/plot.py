"""Latency against published accuracy, as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from matplotlib.transforms import Bbox

from foveal.files import atomic_path
from foveal.tools.latency.hardware import described
from foveal.tools.latency.table import LatencyTable

# Okabe and Ito's colours, which everyone can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "osD^vph"


def plot_latency(table: LatencyTable, output: Path) -> int:
    """Draw milliseconds an image against published top-1, each engine in a colour of its own.

    Rows without a time or a published accuracy are left out.

    Args:
        table: what was measured.
        output: PNG, SVG or whatever else matplotlib knows, by the name's ending.

    Returns:
        How many rows are in the picture.

    Raises:
        FovealError: the file cannot be written.
    """
    rows = [row for row in table.timed if row.top1 is not None]
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    points: dict[str, tuple[float, float]] = {}
    places: list[tuple[float, float]] = []
    engines = dict.fromkeys(row.engine for row in rows)
    for index, engine in enumerate(engines):
        style: dict[str, Any] = {"color": COLOURS[index % 7], "marker": MARKERS[index % 7]}
        axes.plot([], [], linestyle="", label=engine, **style)
        for row in (row for row in rows if row.engine == engine):
            assert row.latency_ms is not None and row.top1 is not None
            at = row.latency_ms / row.batch, row.top1
            # A peer's marker is hollow.
            face = "white" if row.model.startswith("timm:") else style["color"]
            axes.plot(*at, **style, markerfacecolor=face, zorder=3)
            places.append(at)
            # A network's name stands once, at its fastest.
            label = row.model.removeprefix("timm:")
            points[label] = min(points.get(label, at), at)
    axes.set_xscale("log")
    if points:
        plain_numbers(axes.xaxis, [milliseconds for milliseconds, _ in places])
        axes.legend(frameon=False, loc="lower right", fontsize=8)
    if any(row.model.startswith("timm:") for row in rows):
        axes.set_title("filled: Foveal   hollow: timm", fontsize=10)
    axes.margins(0.18, 0.1)
    batch = rows[0].batch if rows else 1
    axes.set_xlabel(f"milliseconds per image, batch {batch}")
    axes.set_ylabel("published ImageNet-1K top-1, %")
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    note = described(table.hardware).replace("; ", ";\n")
    figure.supxlabel(note, fontsize=6, color="#666666")
    name_points(axes, points, places)
    # The same table gives the same file.
    with atomic_path(output) as path, mpl.rc_context({"svg.hashsalt": "foveal"}):
        figure.savefig(path, dpi=150)
    return len(rows)


def name_points(
    axes: Axes,
    points: Mapping[str, tuple[float, float]],
    others: Sequence[tuple[float, float]] = (),
) -> None:
    """A label at each point, on whichever side it covers the least of what is there already.

    Args:
        axes: that the points are drawn in.
        points: by label.
        others: points without a label that are in the way.
    """
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    dots = [axes.transData.transform(at) for at in (*points.values(), *others)]
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in dots]
    sides = [(7, 4, "left"), (7, -11, "left"), (-7, 4, "right"), (-7, -11, "right")]
    for label, at in points.items():
        boxes = []
        for dx, dy, align in sides:
            style: dict[str, Any] = {"fontsize": 8, "ha": align, "textcoords": "offset points"}
            text = axes.annotate(label, at, xytext=(dx, dy), **style)
            boxes.append((text, text.get_window_extent()))
        covered = [sum(box.overlaps(other) for other in taken) for _, box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best][1])
        for index, (text, _) in enumerate(boxes):
            if index != best:
                text.remove()


def plain_numbers(axis: Any, values: Sequence[float]) -> None:
    """Ticks at 1, 2 and 5 of every power of ten within the values, as plain numbers."""
    ticks = [m * 10**e for e in range(-3, 6) for m in (1, 2, 5)]
    ticks = [t for t in ticks if min(values) / 2 <= t <= max(values) * 2]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())
