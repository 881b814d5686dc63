"""Figures of an explanation, drawn with matplotlib: a row a stage, a column a map."""

from collections.abc import Callable, Sequence
from functools import partial
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.explanation import ModelExplanation
from foveal.tools.explain.views import MEAN, CurveView, MapView, PointView, QueryView, View
from foveal.tools.report.colours import diverging, sequential

SEQUENTIAL = ListedColormap(sequential() / 255, "foveal")
DIVERGING = ListedColormap(diverging() / 255, "foveal diverging")

# A view's labels that fit on a row.
_MOST_PANELS = 4
_SIDE = 2.1
_PIXELS = 256

Draw = Callable[[Axes], None]
Panel = tuple[str, Draw]

INPUT = "input"
Row = tuple[str, Sequence[View | str]]


def figure_of(image_name: str, model: ModelExplanation) -> Figure:
    """What the model saw, then a row for the last block of every stage with all its views."""
    heading = (*([] if model.activation is None else [model.activation]), *model.views)
    rows: list[Row] = [("", (INPUT, *heading))]
    rows += [(f"stage {b.stage + 1}\n{b.kind}", b.views) for b in model.last_blocks]
    warning = "" if model.is_trained else " (untrained: noise)"
    return figure_of_rows(f"{model.model}{warning}, {image_name}", rows, model.picture)


def figure_of_rows(title: str, rows: Sequence[Row], picture: Image.Image) -> Figure:
    """A figure of any views.

    Args:
        title: above all of it.
        rows: each a label and its views; `INPUT` stands for the picture itself. Of a view of
            heads their mean is drawn, of other maps up to four labels, of points two groups, of
            queries the one in the middle.
        picture: under the views.
    """
    # Every panel holds a copy of it.
    picture = picture.copy()
    picture.thumbnail((_PIXELS, _PIXELS))
    drawn = [
        (label, [p for view in views for p in _of_view(view, picture)]) for label, views in rows
    ]
    width = max(len(panels) for _, panels in drawn)
    figure = Figure((1.1 + _SIDE * width, 0.7 + (_SIDE + 0.55) * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), width, squeeze=False)
    for (label, panels), row in zip(drawn, axes, strict=True):
        for axis in row:
            axis.axis("off")
        row[0].text(-0.12, 0.5, label, fontsize=8, rotation=90, ha="right", va="center",
                    multialignment="center", transform=row[0].transAxes)  # fmt: skip
        for (name, draw), axis in zip(panels, row, strict=False):
            axis.set_title("\n".join(wrap(name, 30)), fontsize=7)
            draw(axis)
    figure.suptitle(title, fontsize=9)
    return figure


def _of_view(view: View | str, picture: Image.Image) -> list[Panel]:
    if isinstance(view, str):
        return [(INPUT, partial(_picture, picture=picture))]
    if isinstance(view, MapView):
        return _of_maps(view, picture)
    if isinstance(view, QueryView):
        row = view.queries[len(view.queries) // 2]
        query = row[len(row) // 2]
        title = f"{view.title}: {view.labels[0]}"
        return [(title, partial(_query, seen=query, picture=picture))]
    if isinstance(view, PointView):
        titles = [f"{view.title}: {label}" for label in view.labels[:2]]
        return [
            (title, partial(_points, view=view, group=group, picture=picture))
            for group, title in enumerate(titles)
        ]
    return [(view.title, partial(_curves, view=view))]


def _of_maps(view: MapView, picture: Image.Image) -> list[Panel]:
    shown = range(1 if view.labels[0] == MEAN else min(len(view.labels), _MOST_PANELS))
    titles = [
        view.title if len(view.labels) == 1 else f"{view.title}: {view.labels[i]}" for i in shown
    ]
    return [
        (title, partial(_map, view=view, index=i, picture=picture))
        for i, title in zip(shown, titles, strict=True)
    ]


def _picture(axis: Axes, picture: Image.Image) -> None:
    axis.imshow(picture, extent=(0, 1, 1, 0))


def _map(axis: Axes, view: MapView, index: int, picture: Image.Image) -> None:
    values = view.values[index]
    low, high = limits(view, index)
    if view.over_image:
        _picture(axis, picture)
    colours = DIVERGING if view.signed else SEQUENTIAL
    opacity = 0.7 if view.over_image else 1.0
    shown = axis.imshow(
        values, colours, vmin=low, vmax=high, alpha=opacity, extent=(0, 1, 1, 0),
        interpolation="nearest",
    )  # fmt: skip
    assert axis.figure is not None
    bar = axis.figure.colorbar(shown, ax=axis, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=6)


def limits(view: MapView, index: int) -> tuple[float, float]:
    """The values at the ends of a map's colours; signed ones have 0 in their middle."""
    values = view.values if view.together else view.values[index]
    if view.signed:
        most = float(np.abs(values).max())
        return -most, most
    return float(values.min()), float(values.max())


def _query(axis: Axes, seen: QueryAttention, picture: Image.Image) -> None:
    """The first head's weights: pooled cells under the window's, points as circles."""
    _picture(axis, picture)
    h, w = seen.size
    if seen.grid is not None:
        rows, columns = seen.grid.shape[1:]
        right, bottom = columns * seen.cell[1] / w, rows * seen.cell[0] / h
        axis.imshow(seen.grid[0], SEQUENTIAL, alpha=0.7, extent=(0, right, bottom, 0),
                    interpolation="nearest")  # fmt: skip
    if seen.window is not None:
        (y, x), (rows, columns) = seen.corner, seen.window.shape[1:]
        box = (x / w, (x + columns) / w, (y + rows) / h, y / h)
        axis.imshow(seen.window[0], SEQUENTIAL, extent=box, interpolation="nearest")
        axis.add_patch(
            Rectangle((box[0], box[3]), box[1] - box[0], box[2] - box[3], fill=False, color="white")
        )
    if seen.points is not None and seen.mass is not None:
        _circles(axis, seen.points[0], seen.mass[0])
    axis.plot((seen.query[1] + 0.5) / w, (seen.query[0] + 0.5) / h, "+", color="red", markersize=8)
    axis.set(xlim=(0, 1), ylim=(1, 0))


def _points(axis: Axes, view: PointView, group: int, picture: Image.Image) -> None:
    _picture(axis, picture)
    start, end = view.references[group], view.points[group]
    moves = np.stack([start, end], 1)
    for (y0, x0), (y1, x1) in moves:
        axis.plot([x0, x1], [y0, y1], color="white", linewidth=0.5)
    _circles(axis, end, view.mass[group])
    axis.set(xlim=(0, 1), ylim=(1, 0))


def _circles(axis: Axes, points: np.ndarray, mass: np.ndarray) -> None:
    """A circle's area is its mass over the mean's."""
    areas = 14 * mass * len(mass)
    axis.scatter(points[:, 1], points[:, 0], areas, mass, cmap=SEQUENTIAL, edgecolors="white",
                 linewidths=0.4, clip_on=True)  # fmt: skip


def _curves(axis: Axes, view: CurveView) -> None:
    axis.axis("on")
    styles: Sequence[str] = ("-", "--", ":", "-.")
    for index, (label, values) in enumerate(zip(view.labels, view.y, strict=True)):
        axis.plot(view.x, values, styles[index % 4], label=label)
    axis.set_xlabel(view.x_label, fontsize=6)
    axis.set_ylabel(view.y_label, fontsize=6)
    axis.tick_params(labelsize=6)
    axis.legend(fontsize=6)
