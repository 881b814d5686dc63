"""Colours that tell classes apart, for people with any common colour vision."""

from functools import cache
from itertools import product

import numpy as np
from jaxtyping import Float, UInt8

Colours = UInt8[np.ndarray, "n 3"]

# What someone sees without the cones for long and for middle wavelengths, of linear sRGB
# (Machado, Oliveira and Fernandes 2009, severity 1).
_VISIONS = (
    np.eye(3),
    np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
)

# From linear sRGB to CIE XYZ, relative to the white of D65.
_TO_XYZ = np.array(
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
) / np.array([[0.9505], [1.0], [1.089]])

# Of a channel: what the colours are chosen among is all their combinations.
_STEPS = np.linspace(0, 255, 9).round().astype(np.uint8)

# Ignored pixels are black, what is right in the picture of mistakes is white: not for classes.
_TAKEN = np.array([[0, 0, 0], [255, 255, 255]], dtype=np.uint8)


@cache
def class_colours(count: int) -> Colours:
    """A colour for each of `count` classes; the first ones are the same for any count.

    Each is the one farthest from those before it, and from black and white: by the least distance
    in CIE Lab over the three colour visions. Beyond some 20 classes colours alone do not do.
    """
    candidates = np.array(list(product(_STEPS, repeat=3)), dtype=np.uint8)
    places = seen_as(candidates)
    distance = np.full(len(candidates), np.inf)
    for taken in np.moveaxis(seen_as(_TAKEN), 1, 0):
        distance = np.minimum(distance, _least_distance(places, taken))
    chosen: list[int] = []
    for _ in range(count):
        farthest = int(distance.argmax())
        # With as many classes as candidates, colours return; the distance is 0 by then anyway.
        chosen.append(farthest)
        distance = np.minimum(distance, _least_distance(places, places[:, farthest]))
    colours = candidates[chosen]
    colours.flags.writeable = False
    return colours


def seen_as(colours: Colours) -> Float[np.ndarray, "visions n 3"]:
    """sRGB in CIE Lab, as each of the three colour visions has it."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.stack([np.clip(linear @ vision.T, 0, 1) for vision in _VISIONS])
    xyz = seen @ _TO_XYZ.T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _least_distance(
    places: Float[np.ndarray, "visions n 3"], other: Float[np.ndarray, "visions 3"]
) -> Float[np.ndarray, " n"]:
    return np.linalg.norm(places - other[:, None], axis=-1).min(0)
