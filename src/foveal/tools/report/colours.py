"""Perceptually uniform colour maps, computed: equal steps of value, equal steps of lightness."""

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

# Corners of the path in CIE Lab (lightness, green-red, blue-yellow): dark blue, teal, light yellow.
_PATH = np.array(
    [
        [12.0, 14.0, -38.0],
        [34.0, -4.0, -34.0],
        [56.0, -34.0, -6.0],
        [74.0, -32.0, 42.0],
        [94.0, -8.0, 58.0],
    ]
)

# As the first, by way of violet and red: what has these colours lies over what has the others.
_SECOND_PATH = np.array(
    [
        [12.0, 22.0, -14.0],
        [32.0, 48.0, -6.0],
        [53.0, 54.0, 34.0],
        [74.0, 22.0, 60.0],
        [94.0, -8.0, 42.0],
    ]
)

# Blue for what is below 0, near white for 0, orange for what is above: hues that no common colour
# blindness confuses. Both ends are equally dark and equally strong.
_BELOW, _ZERO, _ABOVE = (
    np.array(lab) for lab in ([38.0, 6.0, -44.0], [95.0, 0.0, 0.0], [38.0, 26.0, 36.0])
)

# Lab's white point, D65.
_WHITE = np.array([0.9505, 1.0, 1.089])

_XYZ_TO_RGB = np.array(
    [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
)


def sequential(steps: int = 256) -> UInt8[np.ndarray, "steps 3"]:
    """From dark blue to light yellow; lightness rises linearly."""
    return _along(_PATH, steps)


def second_sequential(steps: int = 256) -> UInt8[np.ndarray, "steps 3"]:
    """From dark violet to light yellow, as dark and as light as the first at every step."""
    return _along(_SECOND_PATH, steps)


def diverging(steps: int = 255) -> UInt8[np.ndarray, "steps 3"]:
    """From blue over near white, the middle of an odd number of steps, to orange.

    Straight lines in Lab: equal steps of colour, and of lightness, to both sides.
    """
    share = np.linspace(-1, 1, steps)[:, None]
    ends = np.where(share < 0, _BELOW, _ABOVE)
    return _lab_to_srgb(_ZERO + np.abs(share) * (ends - _ZERO))


def colour(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Values in [0, 1] as sRGB, from dark blue to light yellow; lightness rises linearly."""
    return sequential()[(np.clip(values, 0, 1) * 255).round().astype(int)]


def gradient(width: int = 256) -> Image.Image:
    """The whole map from left to right."""
    return Image.fromarray(colour(np.linspace(0, 1, width)[None].repeat(12, axis=0)))


def _along(path: Float[np.ndarray, "n 3"], steps: int) -> UInt8[np.ndarray, "steps 3"]:
    lightness = np.linspace(path[0, 0], path[-1, 0], steps)
    return _lab_to_srgb(
        np.stack(
            [lightness, *(np.interp(lightness, path[:, 0], path[:, i]) for i in (1, 2))], axis=-1
        )
    )


def _lab_to_srgb(lab: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 3"]:
    """CIE 1976 L*a*b* to sRGB, clipped to what a screen shows."""
    y = (lab[:, 0] + 16) / 116
    f = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], axis=-1)
    xyz = _WHITE * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    linear = np.clip(xyz @ _XYZ_TO_RGB.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (srgb * 255).round().astype(np.uint8)
