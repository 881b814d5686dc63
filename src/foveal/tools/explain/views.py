"""What can be shown of a reading: maps, one query's attention, points and curves."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from foveal.tools.explain.attention import QueryAttention

# The label of what stands for all heads together, before them.
MEAN = "mean of the heads"


@dataclass(frozen=True, eq=False)
class MapView:
    """Maps of the same kind over the image, to be shown one at a time and in the same colours.

    Attributes:
        title: such as "gates".
        about: what a value means, its unit and range, in a sentence.
        labels: of the maps, such as "level 1".
        values: the maps.
        signed: whether 0 is the middle of the colours, for values of either sign.
        together: whether all maps share one scale; else each has its own.
        over_image: whether they lie over the image; kernels and receptive fields do not.
    """

    title: str
    about: str
    labels: tuple[str, ...]
    values: Float[np.ndarray, "labels h w"]
    signed: bool = False
    together: bool = True
    over_image: bool = True


@dataclass(frozen=True, eq=False)
class QueryView:
    """Where queries look, for queries on an even grid over the image.

    Attributes:
        title, about: as of a `MapView`.
        labels: of the heads that each query's attention has; where they have the same keys, the
            first is their mean.
        queries: row by row, the attention of the query in the middle of each cell of the grid.
    """

    title: str
    about: str
    labels: tuple[str, ...]
    queries: tuple[tuple[QueryAttention, ...], ...]


@dataclass(frozen=True, eq=False)
class PointView:
    """Sampled points and how much they matter.

    Attributes:
        title, about: as of a `MapView`.
        labels: of the groups of points.
        references: rows and columns of where each point started, as fractions of the image.
        points: and of where it went; off the image outside [0, 1].
        mass: how much each matters; sums to 1 in each group.
    """

    title: str
    about: str
    labels: tuple[str, ...]
    references: Float[np.ndarray, "labels n 2"]
    points: Float[np.ndarray, "labels n 2"]
    mass: Float[np.ndarray, "labels n"]


@dataclass(frozen=True, eq=False)
class CurveView:
    """Curves in one diagram.

    Attributes:
        title, about: as of a `MapView`.
        labels: of the curves.
        x: where they are known, the same for all.
        y: their values.
        x_label, y_label: of the axes, with units.
    """

    title: str
    about: str
    labels: tuple[str, ...]
    x: Float[np.ndarray, " n"]
    y: Float[np.ndarray, "labels n"]
    x_label: str
    y_label: str


View = MapView | QueryView | PointView | CurveView
