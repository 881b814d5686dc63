"""Curves in the unit square, as an inline SVG that takes the page's colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Float

from foveal.tools.report.objects import Colour

_SIDE, _LEFT, _TOP, _BELOW = 300, 52, 30, 46
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, eq=False)
class Line:
    """A curve.

    Attributes:
        x: in [0, 1].
        y: in [0, 1].
        colour: None for that of the page's text, drawn thicker.
        name: read out when pointed at.
    """

    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, " n"]
    colour: Colour | None
    name: str


def unit_chart(title: str, x_label: str, y_label: str, lines: Sequence[Line], alt: str) -> str:
    """A chart with both axes from 0 to 1.

    Args:
        title: above it.
        x_label: below it.
        y_label: beside it.
        lines: the last one on top.
        alt: what it shows, in words.
    """
    width, height = _LEFT + _SIDE + 16, _TOP + _SIDE + _BELOW
    middle_x, middle_y = _LEFT + _SIDE / 2, _TOP + _SIDE / 2
    turned = f'transform="rotate(-90 14 {middle_y})"'
    parts = [
        f'<svg class="chart" role="img" aria-label="{escape(alt)}" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f'<text class="title" x="{middle_x}" y="18">{escape(title)}</text>',
        *(_tick(value) for value in _TICKS),
        f'<text x="{middle_x}" y="{height - 8}">{escape(x_label)}</text>',
        f'<text x="14" y="{middle_y}" {turned}>{escape(y_label)}</text>',
        *(_line(line) for line in lines),
        "</svg>",
    ]
    return "".join(parts)


CHART_STYLE = """
.charts { display: flex; flex-wrap: wrap; gap: 1rem; }
.chart { max-width: 100%; height: auto; font-size: 13px; }
.chart text { fill: var(--soft); text-anchor: middle; }
.chart .title { fill: var(--text); font-weight: 600; font-size: 14px; }
.chart .side { text-anchor: end; }
.chart .grid { stroke: var(--line); stroke-width: 1; }
.chart polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
.chart .whole { stroke: var(--text); stroke-width: 3; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: .6rem 0; padding: 0;
  list-style: none; font-size: .9rem; }
.key span { display: inline-block; width: .9rem; height: .9rem; margin-right: .35rem;
  border-radius: .2rem; vertical-align: -.1rem; }
.key .whole { background: var(--text); }
"""


def key(entries: Sequence[tuple[str, Colour | None]]) -> str:
    """What the colours stand for; None is that of the page's text."""
    items = (f"<li><span{_ground(colour)}></span>{escape(name)}</li>" for name, colour in entries)
    return f'<ul class="key">{"".join(items)}</ul>'


def _ground(colour: Colour | None) -> str:
    return ' class="whole"' if colour is None else f' style="background: rgb{colour}"'


def _tick(value: float) -> str:
    x, y = _LEFT + value * _SIDE, _TOP + (1 - value) * _SIDE
    return (
        f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_TOP + _SIDE}"/>'
        f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _SIDE}" y1="{y}" y2="{y}"/>'
        f'<text x="{x}" y="{_TOP + _SIDE + 18}">{value:g}</text>'
        f'<text class="side" x="{_LEFT - 6}" y="{y + 4}">{value:g}</text>'
    )


def _line(line: Line) -> str:
    points = " ".join(
        f"{_LEFT + x * _SIDE:.1f},{_TOP + (1 - y) * _SIDE:.1f}"
        for x, y in zip(line.x, line.y, strict=True)
    )
    style = ' class="whole"' if line.colour is None else f' style="stroke: rgb{line.colour}"'
    return f'<polyline{style} points="{points}"><title>{escape(line.name)}</title></polyline>'
