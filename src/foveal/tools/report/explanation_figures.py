"""Figures of an explanation, drawn with matplotlib: a row a stage, a column a map."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from textwrap import wrap
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.explanation import ELSEWHERE, BlockExplanation, ModelExplanation
from foveal.tools.explain.views import MEAN, CurveView, MapView, PointView, QueryView, View
from foveal.tools.report.colours import diverging, second_sequential, sequential
from foveal.tools.report.scales import map_ends, share_off_map, window_on_map

SEQUENTIAL = ListedColormap(sequential() / 255, "foveal")
SECOND = ListedColormap(second_sequential() / 255, "foveal second")
DIVERGING = ListedColormap(diverging() / 255, "foveal diverging")

# A view's labels that fit on a row.
_MOST_PANELS = 4
_SIDE = 2.1
# Beside a panel, for the colour bars.
_BARS = 0.7
_PIXELS = 256

# In square points: the circle of an even share, and at most all circles together.
_EVEN_CIRCLE = 14.0
_ALL_CIRCLES = 3000.0
_CIRCLES = "#ffc43d"

Draw = Callable[[Axes], None]
Panel = tuple[str, Draw]

INPUT = "input"
Row = tuple[str, Sequence[View | str]]


def figure_of(image_title: str, model: ModelExplanation, model_title: str | None = None) -> Figure:
    """What the model saw, then a row for the last block of every stage with all its views.

    Args:
        image_title: what the image is called.
        model: its readings.
        model_title: what the model is called, where its name is another's, too.
    """
    heading = (*([] if model.activation is None else [model.activation]), *model.views)
    rows: list[Row] = [("", (INPUT, *heading))]
    # A mixer outside of stages, of stage −1, comes last.
    elsewhere = [block for block in model.blocks if block.stage == ELSEWHERE]
    blocks = [*model.last_blocks, *elsewhere[-1:]]
    rows += [(f"{_place(block)}\n{block.kind}", block.views) for block in blocks]
    warning = "" if model.is_trained else " (untrained: noise)"
    title = f"{model_title or model.model}{warning}, {image_title}"
    return figure_of_rows(title, rows, model.picture)


def _place(block: BlockExplanation) -> str:
    if block.stage >= 0:
        return f"stage {block.stage + 1}"
    # A long path breaks behind its dots.
    lines = wrap(block.path.replace(".", ". "), 30)
    return "\n".join(line.replace(". ", ".") for line in lines)


def figure_of_rows(title: str, rows: Sequence[Row], picture: Image.Image) -> Figure:
    """A figure of any views.

    Texts are drawn as they are: a dollar sign begins no formula.

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
    with rc_context({"text.parse_math": False, "text.usetex": False}):
        return _drawn(title, drawn)


def _drawn(title: str, drawn: Sequence[tuple[str, Sequence[Panel]]]) -> Figure:
    width = max(len(panels) for _, panels in drawn)
    figure = Figure(
        (1.1 + (_SIDE + _BARS) * width, 0.7 + (_SIDE + 0.55) * len(drawn)), layout="constrained"
    )
    axes = figure.subplots(len(drawn), width, squeeze=False)
    for (label, panels), row in zip(drawn, axes, strict=True):
        for axis in row:
            axis.axis("off")
        row[0].text(-0.12, 0.5, label, fontsize=8, rotation=90, ha="right", va="center",
                    multialignment="center", transform=row[0].transAxes)  # fmt: skip
        for (name, draw), axis in zip(panels, row, strict=False):
            lines = [part for line in name.splitlines() for part in wrap(line, 40)]
            axis.set_title("\n".join(lines), fontsize=7)
            draw(axis)
    figure.suptitle("\n".join(wrap(title, 40 * width)), fontsize=9)
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
        off = share_off_map(query)[0]
        if off > 0:
            title += f"\n{100 * off:.3g} % on padding off the map"
        return [(title, partial(_query, seen=query, picture=picture))]
    if isinstance(view, PointView):
        titles = [f"{view.title}: {label}" for label in view.labels[:2]]
        return [
            (title, partial(_points, view=view, group=group, picture=picture))
            for group, title in enumerate(titles)
        ]
    return [(view.title, partial(_curves, view=view))]


def _of_maps(view: MapView, picture: Image.Image) -> list[Panel]:
    count = 1 if view.labels[0] == MEAN else _MOST_PANELS
    # Colours are for what is drawn: the heads would leave little of them to their mean.
    drawn = replace(view, labels=view.labels[:count], values=view.values[:count])
    lows, highs = map_ends(drawn)
    panels: list[Panel] = []
    for i, label in enumerate(drawn.labels):
        title = view.title if len(view.labels) == 1 else f"{view.title}: {label}"
        # One scale for all, or one for each.
        low, high = (float(ends[min(i, len(ends) - 1)]) for ends in (lows, highs))
        panels.append(
            (title, partial(_map, view=drawn, index=i, picture=picture, low=low, high=high))
        )
    return panels


def _picture(axis: Axes, picture: Image.Image) -> None:
    axis.imshow(picture, extent=(0, 1, 1, 0), aspect=_shape(picture))


def _shape(picture: Image.Image) -> float:
    """Height over width: places are fractions of either."""
    return picture.height / picture.width


def _map(
    axis: Axes, view: MapView, index: int, picture: Image.Image, low: float, high: float
) -> None:
    if view.over_image:
        _picture(axis, picture)
    colours = DIVERGING if view.signed else SEQUENTIAL
    opacity = 0.7 if view.over_image else 1.0
    shown = axis.imshow(
        view.values[index], colours, vmin=low, vmax=high, alpha=opacity, extent=(0, 1, 1, 0),
        interpolation="nearest", aspect=_shape(picture) if view.over_image else None,
    )  # fmt: skip
    _bar(axis, shown)


def _bar(axis: Axes, shown: AxesImage, **options: Any) -> Colorbar:
    """What colours stand for: as tall as the panel, right of it and of earlier bars."""
    beside = axis.inset_axes((1.03 + 0.26 * len(axis.child_axes), 0.0, 0.05, 1.0))
    assert axis.figure is not None
    bar = axis.figure.colorbar(shown, cax=beside, **options)
    bar.ax.tick_params(labelsize=6, pad=1.5)
    return bar


def _query(axis: Axes, seen: QueryAttention, picture: Image.Image) -> None:
    """The first head's weights: pooled cells under the window's, points as circles."""
    _picture(axis, picture)
    h, w = seen.size
    window = window_on_map(seen)
    if window is not None:
        (y, x), (rows, columns) = seen.corner, window.shape[1:]
        box = (x / w, (x + columns) / w, (y + rows) / h, y / h)
        _shares(axis, "window", window[0], SECOND, box, 1.0)
        # As far as it is on the map.
        left, right, bottom, top = (min(max(side, 0.0), 1.0) for side in box)
        axis.add_patch(
            Rectangle((left, top), right - left, bottom - top, fill=False, color="white")
        )
    if seen.grid is not None:
        rows, columns = seen.grid.shape[1:]
        box = (0.0, columns * seen.cell[1] / w, rows * seen.cell[0] / h, 0.0)
        name = "all cells" if tuple(seen.cell) == (1, 1) else "pooled cells"
        _shares(axis, name, seen.grid[0], SEQUENTIAL, box, 0.7)
    if seen.points is not None and seen.mass is not None:
        _circles(axis, seen.points[0], seen.mass[0])
    axis.plot((seen.query[1] + 0.5) / w, (seen.query[0] + 0.5) / h, "+", color="red", markersize=8)
    axis.set(xlim=(0, 1), ylim=(1, 0), aspect=_shape(picture))


def _shares(
    axis: Axes,
    name: str,
    shares: Float[np.ndarray, "rows columns"],
    colours: Colormap,
    box: tuple[float, float, float, float],
    opacity: float,
) -> None:
    """Shares of the attention from 0 to the greatest, beside them what their colours stand for."""
    high = float(np.nanmax(shares, initial=0.0))
    # The window lies over the pooled cells.
    shown = axis.imshow(shares, colours, vmin=0.0, vmax=high or 1.0, alpha=opacity, extent=box,
                        interpolation="nearest", zorder=1 if opacity < 1 else 1.5)  # fmt: skip
    in_percent = FuncFormatter(lambda share, _: f"{100 * share:.3g}")
    _bar(axis, shown, ticks=MaxNLocator(4), format=in_percent).set_label(f"{name}, %", fontsize=6)


def _points(axis: Axes, view: PointView, group: int, picture: Image.Image) -> None:
    _picture(axis, picture)
    start, end = view.references[group], view.points[group]
    moves = np.stack([start, end], 1)
    for (y0, x0), (y1, x1) in moves:
        axis.plot([x0, x1], [y0, y1], color="white", linewidth=0.5)
    _circles(axis, end, view.mass[group])
    axis.set(xlim=(0, 1), ylim=(1, 0))


def _circles(axis: Axes, points: Float[np.ndarray, "n 2"], mass: Float[np.ndarray, " n"]) -> None:
    """A circle's area is its share; below, circles of some shares."""
    area = min(_EVEN_CIRCLE * len(mass), _ALL_CIRCLES)
    style = {"color": _CIRCLES, "edgecolors": "black", "linewidths": 0.4}
    # The smallest on top.
    order = np.argsort(-mass)
    axis.scatter(points[order, 1], points[order, 0], area * mass[order], **style)
    shares = dict.fromkeys(min(1.0, float(f"{times / len(mass):.1g}")) for times in (1, 4, 16))
    samples = [axis.scatter([], [], area * share, **style) for share in shares]
    names = [f"{round(100 * share, 3):g} %" for share in shares]
    axis.legend(samples, names, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(names),
                fontsize=6, frameon=False, handletextpad=0.6, columnspacing=1.0)  # fmt: skip


def _curves(axis: Axes, view: CurveView) -> None:
    axis.axis("on")
    axis.set_box_aspect(1)
    styles: Sequence[str] = ("-", "--", ":", "-.")
    for index, (label, values) in enumerate(zip(view.labels, view.y, strict=True)):
        axis.plot(view.x, values, styles[index % 4], label=label)
    axis.set_xlabel(view.x_label, fontsize=6)
    axis.set_ylabel(view.y_label, fontsize=6)
    axis.tick_params(labelsize=6)
    axis.legend(fontsize=6)
