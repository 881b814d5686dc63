"""What the colours of a reading stand for, the same on the page and in figures."""

import numpy as np
from jaxtyping import Bool, Float

from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.views import MapView

Ends = tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]


def map_ends(view: MapView) -> Ends:
    """The least and the greatest value of all maps together, or of each.

    Signed maps have 0 in the middle. Values that are not finite do not count.
    """
    flat = view.values.reshape(1 if view.together else len(view.values), -1)
    low, high = ends_of(flat)
    if view.signed:
        high = np.maximum(np.abs(low), np.abs(high))
        low = -high
    return low, high


def ends_of(flat: Float[np.ndarray, "n values"]) -> Ends:
    """Least and greatest finite value of each row; 0 where a row has none."""
    finite = np.isfinite(flat)
    least = np.where(finite, flat, np.inf).min(1, initial=np.inf)
    greatest = np.where(finite, flat, -np.inf).max(1, initial=-np.inf)
    return np.where(np.isfinite(least), least, 0), np.where(np.isfinite(greatest), greatest, 0)


def window_on_map(seen: QueryAttention) -> Float[np.ndarray, "heads kh kw"] | None:
    """The window's weights, NaN where its cells lie off the map: on padding, which is not drawn."""
    if seen.window is None:
        return None
    return np.where(_is_on_map(seen), seen.window, np.nan)


def share_off_map(seen: QueryAttention) -> Float[np.ndarray, " heads"]:
    """How much of each head's attention goes to padding off the map, in [0, 1]."""
    if seen.window is None:
        return np.zeros(seen.num_heads)
    return np.where(_is_on_map(seen), 0, seen.window).astype(float).sum((1, 2))


def _is_on_map(seen: QueryAttention) -> Bool[np.ndarray, "kh kw"]:
    assert seen.window is not None
    rows, columns = (
        (np.arange(n) + first >= 0) & (np.arange(n) + first < size)
        for n, first, size in zip(seen.window.shape[1:], seen.corner, seen.size, strict=True)
    )
    return rows[:, None] & columns
