"""Readings as bytes that a page can read: a header of JSON, then numbers of one or two bytes.

A packet is gzip of: the header's length (4 bytes, little endian), the header, the numbers. In the
header an array is its place among the numbers ("at"), "shape", "bytes" a number, and "low" and
"high", the values that the least and the greatest number stand for: one of each for the whole
array, or one for each index of its first axis. The greatest number of all stands for a value that
is none.
"""

import base64
import gzip
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.explanation import ModelExplanation
from foveal.tools.explain.views import CurveView, MapView, PointView, QueryView, View
from foveal.tools.report.scales import ends_of, map_ends, share_off_map, window_on_map

# An odd number of steps, so that 0 in the middle of a signed scale is met exactly. The number
# above the last step is left for values that are not finite.
STEPS = {1: 255, 2: 65535}


def model_packet(model: ModelExplanation) -> bytes:
    """All readings of one model on one image."""
    numbers = _Numbers()
    blocks = [
        {
            "path": block.path,
            "stage": block.stage,
            "block": block.block,
            "kind": block.kind,
            "views": [_view(view, numbers) for view in block.views],
        }
        for block in model.blocks
    ]
    activation = None if model.activation is None else _view(model.activation, numbers)
    views = [_view(view, numbers) for view in model.views]
    return _packet({"blocks": blocks, "activation": activation, "views": views}, numbers)


def query_packet(attention: QueryAttention) -> bytes:
    """One query, as the page of a live server reads it."""
    numbers = _Numbers()
    return _packet({"query": _query(attention, numbers)}, numbers)


def text_of(packet: bytes) -> str:
    """A packet as text that can stand in a page."""
    return base64.b64encode(packet).decode("ascii")


class _Numbers:
    """Arrays one after the other; what is there already is pointed to."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._places: dict[bytes, int] = {}
        self._length = 0

    def add(
        self,
        values: np.ndarray,
        low: Sequence[float] | np.ndarray,
        high: Sequence[float] | np.ndarray,
        size: int = 1,
    ) -> dict[str, Any]:
        """The header's entry of an array, `size` bytes a number."""
        last = STEPS[size] - 1
        low, high = np.asarray(low, float), np.asarray(high, float)
        along = (-1, *[1] * (values.ndim - 1))
        reach = np.where(high > low, high - low, 1).reshape(along)
        finite = np.isfinite(values)
        shares = (np.where(finite, values, 0) - low.reshape(along)) / reach
        codes = np.where(finite, np.clip(np.round(shares * last), 0, last), last + 1)
        content = codes.astype(f"<u{size}").tobytes()
        place = self._places.setdefault(content, self._length)
        if place == self._length:
            self._parts.append(content)
            self._length += len(content)
        ends = {"low": _short(low), "high": _short(high)}
        return {"at": place, "shape": list(values.shape), "bytes": size, **ends}

    def content(self) -> bytes:
        return b"".join(self._parts)


def _packet(header: Mapping[str, Any], numbers: _Numbers) -> bytes:
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    # Without the time of day, the same readings are the same bytes.
    return gzip.compress(struct.pack("<I", len(text)) + text + numbers.content(), mtime=0)


def _view(view: View, numbers: _Numbers) -> dict[str, Any]:
    head = {"title": view.title, "about": view.about, "labels": list(view.labels)}
    match view:
        case MapView():
            low, high = map_ends(view)
            values = numbers.add(view.values, low, high)
            flags = {"signed": view.signed, "overImage": view.over_image}
            return {"type": "map", **head, **flags, "values": values}
        case QueryView():
            queries = [[_query(query, numbers) for query in row] for row in view.queries]
            return {"type": "query", **head, "queries": queries}
        case PointView():
            places = {
                "references": _places(view.references, numbers),
                "points": _places(view.points, numbers),
            }
            return {"type": "point", **head, **places, "mass": _weights(view.mass, numbers)}
        case CurveView():
            axes = {"xLabel": view.x_label, "yLabel": view.y_label}
            return {"type": "curve", **head, **axes, "x": _short(view.x), "y": _curves(view.y)}


def _query(attention: QueryAttention, numbers: _Numbers) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "query": [int(i) for i in attention.query],
        "size": [int(i) for i in attention.size],
    }
    if attention.grid is not None:
        entry["grid"] = _weights(attention.grid, numbers)
        entry["cell"] = _short(np.asarray(attention.cell))
    window = window_on_map(attention)
    if window is not None:
        # What is off the map is not drawn, but a part of the window's share nevertheless.
        off = share_off_map(attention)
        entry["window"] = _weights(window, numbers, off)
        entry["off"] = _short(off)
        entry["corner"] = [int(i) for i in attention.corner]
    if attention.points is not None and attention.mass is not None:
        entry["points"] = _places(attention.points, numbers)
        entry["mass"] = _weights(attention.mass, numbers)
    return entry


def _weights(
    values: np.ndarray, numbers: _Numbers, more: np.ndarray | float = 0.0
) -> dict[str, Any]:
    """Shares of a whole, each head from 0 to its own greatest; their sums, and `more`, as they are.

    A softmax has many small weights: the sum of their steps would not be that of the weights.
    """
    flat = values.reshape(len(values), -1).astype(float)
    high = np.nan_to_num(flat, posinf=0).max(1, initial=0)
    sums = _short(np.nan_to_num(flat).sum(1) + more)
    return {**numbers.add(values, np.zeros(len(flat)), high), "sums": sums}


def _places(values: np.ndarray, numbers: _Numbers) -> dict[str, Any]:
    """Two bytes a number: one would move a point by some pixels of a screen."""
    low, high = ends_of(values.reshape(1, -1))
    return numbers.add(values, low, high, size=2)


def _short(values: np.ndarray) -> list[float]:
    """Five digits: more than a reader is shown."""
    return [float(f"{value:.5g}") for value in np.asarray(values, float)]


def _curves(values: np.ndarray) -> list[list[float | None]]:
    """Without a value where there is none, which JSON calls null."""
    return [[short if np.isfinite(short) else None for short in _short(curve)] for curve in values]
