"""What there is to be seen in each kind of reading, for the page and for figures."""

from functools import singledispatch

import numpy as np

from foveal.tools.explain.attentions import (
    AggregatedAttentionReading,
    CloAttentionReading,
    FullAttentionReading,
)
from foveal.tools.explain.deformed import DeformableAttentionReading
from foveal.tools.explain.modulations import (
    ConvGLUReading,
    EfficientModulationReading,
    FocalModulationReading,
    root_mean_square,
)
from foveal.tools.explain.reading import AttentionReading, OtherReading, Reading
from foveal.tools.explain.spectrum import radial_spectrum
from foveal.tools.explain.views import MEAN, CurveView, MapView, PointView, QueryView, View

QUERIES = "attention of a query"


@singledispatch
def views_of(reading: Reading, image: int = 0, queries: int = 7) -> tuple[View, ...]:
    """What to show of a reading.

    Args:
        reading: of a batch.
        image: of the batch.
        queries: along each side of the even grid of queries, at most one per cell.
    """
    if isinstance(reading, AttentionReading):
        return (query_view(reading, image, queries),)
    return ()


@views_of.register
def _(reading: FocalModulationReading, image: int = 0, queries: int = 7) -> tuple[View, ...]:
    levels = reading.gates.shape[1]
    labels = [f"level {level}" for level in range(1, levels)]
    return (
        MapView(
            "gates",
            "How much of each focal level's context a position takes: unbounded, of either sign.",
            (*labels, "global context"),
            reading.gates[image],
            signed=True,
        ),
        MapView(
            "modulator",
            "Root mean square over channels of what the query is multiplied by, from 0 up.",
            ("all channels",),
            reading.modulator_magnitude[image, None],
        ),
        *([_kernel_view(reading)] if reading.kernels else []),
    )


def _kernel_view(reading: FocalModulationReading) -> MapView:
    """The mean absolute depthwise kernels, each padded to the largest."""
    largest = max(kernel.shape[-1] for kernel in reading.kernels)
    padded = []
    for kernel in reading.kernels:
        margin = (largest - kernel.shape[-1]) // 2
        padded.append(np.pad(np.abs(kernel).mean(0), margin))
    return MapView(
        "depthwise kernels",
        "Mean absolute weights over channels of each level's learned kernel, the same at every "
        "position.",
        tuple(
            f"level {i}: {k.shape[-1]} × {k.shape[-1]}" for i, k in enumerate(reading.kernels, 1)
        ),
        np.stack(padded),
        together=False,
        over_image=False,
    )


@views_of.register
def _(reading: EfficientModulationReading, image: int = 0, queries: int = 7) -> tuple[View, ...]:
    return (
        MapView(
            "context",
            "Root mean square over channels of the context that modulates each position, from 0 "
            "up.",
            ("all channels",),
            reading.context_magnitude[image, None],
        ),
    )


@views_of.register
def _(reading: ConvGLUReading, image: int = 0, queries: int = 7) -> tuple[View, ...]:
    return (
        MapView(
            "gate",
            "Root mean square over channels of the gate, from 0 up.",
            ("all channels",),
            root_mean_square(reading.gate)[image, None],
        ),
    )


@views_of.register
def _(reading: AggregatedAttentionReading, image: int = 0, queries: int = 7) -> tuple[View, ...]:
    positional = np.square(reading.positional_attention[image]).sum(-1) ** 0.5
    return (
        query_view(reading, image, queries),
        _of_heads(
            "share of the window",
            "How much of the attention the sharp window takes over the pooled map, from 0 to 1.",
            reading.window_share[image],
        ),
        _entropy(reading.entropy[image], reading),
        _of_heads(
            "positional attention",
            "Euclidean norm over the window of the weights that learned tokens add, from 0 up.",
            positional,
        ),
    )


@views_of.register
def _(reading: FullAttentionReading, image: int = 0, queries: int = 7) -> tuple[View, ...]:
    entropies = _entropy(reading.entropy[image], reading)
    return (query_view(reading, image, queries), entropies)


@views_of.register
def _(reading: CloAttentionReading, image: int = 0, queries: int = 7) -> tuple[View, ...]:
    views: list[View] = []
    if reading.local_weights:
        views.append(
            MapView(
                "context-aware weights",
                "Root mean square over channels of the weights that AttnConv multiplies each value "
                "by, from 0 to 1.",
                tuple(f"local branch {i}" for i in range(1, len(reading.local_weights) + 1)),
                np.stack([root_mean_square(w)[image] for w in reading.local_weights]),
            )
        )
    if reading.attention is not None:
        views.append(query_view(reading, image, queries))
    curves = _spectra(reading, image)
    return (*views, *([] if curves is None else [curves]))


def _spectra(reading: CloAttentionReading, image: int) -> CurveView | None:
    """The spectra of both branches, where there are two and the map is large enough."""
    near, far = reading.local_output, reading.global_output
    if near is None or far is None or min(reading.size) < 4:
        return None
    spectra = [radial_spectrum(branch[image]) for branch in (near, far)]
    return CurveView(
        "spectra of the branches",
        "Log amplitude of each branch's output by frequency, relative to its mean; the paper "
        "expects the local branch to keep more of the high frequencies.",
        ("local branch", "global branch"),
        spectra[0].frequency,
        np.stack([spectrum.relative_log_amplitude for spectrum in spectra]),
        "frequency (cycles per cell)",
        "log amplitude, relative",
    )


@views_of.register
def _(reading: DeformableAttentionReading, image: int = 0, queries: int = 7) -> tuple[View, ...]:
    groups = reading.positions.shape[1]
    shape = (groups, -1, 2)
    moved = reading.on_image(reading.positions[image]).reshape(shape)
    start = np.broadcast_to(reading.references, reading.positions[image].shape)
    importance = reading.key_importance[image]
    return (
        PointView(
            "deformed points",
            "Where each group samples its keys, from the even grid on; the area of a circle is the "
            "attention its key gets from all queries, all of a group together being 1.",
            tuple(f"group {group}" for group in range(1, groups + 1)),
            reading.on_image(start).reshape(shape),
            moved,
            importance.reshape(groups, -1, importance.shape[-1]).mean(1),
        ),
        query_view(reading, image, queries),
    )


@views_of.register
def _(reading: OtherReading, image: int = 0, queries: int = 7) -> tuple[View, ...]:
    return tuple(
        MapView(
            name,
            "Root mean square over channels, from 0 up.",
            ("all channels",),
            root_mean_square(array)[image, None],
        )
        for name, array in reading.arrays.items()
        if array.ndim == 4 and len(array) > image
    )


def query_view(reading: AttentionReading, image: int = 0, queries: int = 7) -> QueryView:
    """The attention of queries on an even grid, the mean of the heads first."""
    rows, columns = (_even(side, queries) for side in reading.size)
    heads = reading.attention_of(0, 0, image).num_heads
    grid = tuple(
        tuple(reading.attention_of(y, x, image).with_mean() for x in columns) for y in rows
    )
    led = grid[0][0].num_heads > heads
    return QueryView(
        QUERIES,
        "Where the marked position looks: the weights of all it sees, which sum to 1.",
        (*([MEAN] if led else []), *(f"head {i}" for i in range(1, heads + 1))),
        grid,
    )


def _even(side: int, queries: int) -> list[int]:
    """The middle cells of `queries` equal parts of an axis."""
    count = min(side, queries)
    return [int((i + 0.5) * side / count) for i in range(count)]


def _of_heads(title: str, about: str, values: np.ndarray) -> MapView:
    labels = (f"head {head}" for head in range(1, len(values) + 1))
    stacked = np.concatenate([values.mean(0, keepdims=True), values])
    return MapView(title, about, (MEAN, *labels), stacked)


def _entropy(
    values: np.ndarray, reading: AggregatedAttentionReading | FullAttentionReading
) -> MapView:
    view = _of_heads(
        "entropy",
        "Of each query's attention in nats: 0 for a single key, the logarithm of their number for "
        "all alike.",
        values,
    )
    if reading.temperature is None:
        return view
    sharp = [f", temperature {t:.2f}" for t in reading.temperature]
    labels = [label + text for label, text in zip(view.labels[1:], sharp, strict=True)]
    return MapView(view.title, view.about, (view.labels[0], *labels), view.values)
