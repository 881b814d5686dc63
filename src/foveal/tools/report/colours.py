"""A perceptually uniform colour map, computed: equal steps of value, equal steps of lightness."""

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

# Lab's white point, D65.
_WHITE = np.array([0.9505, 1.0, 1.089])

_XYZ_TO_RGB = np.array(
    [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
)


def colour(values: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Values in [0, 1] as sRGB, from dark blue to light yellow; lightness rises linearly."""
    lightness = np.linspace(_PATH[0, 0], _PATH[-1, 0], 256)
    lab = np.stack(
        [lightness, *(np.interp(lightness, _PATH[:, 0], _PATH[:, i]) for i in (1, 2))], axis=-1
    )
    palette = _lab_to_srgb(lab)
    return palette[(np.clip(values, 0, 1) * 255).round().astype(int)]


def gradient(width: int = 256) -> Image.Image:
    """The whole map from left to right."""
    return Image.fromarray(colour(np.linspace(0, 1, width)[None].repeat(12, axis=0)))


def _lab_to_srgb(lab: Float[np.ndarray, "n 3"]) -> UInt8[np.ndarray, "n 3"]:
    """CIE 1976 L*a*b* to sRGB, clipped to what a screen shows."""
    y = (lab[:, 0] + 16) / 116
    f = np.stack([y + lab[:, 1] / 500, y, y - lab[:, 2] / 200], axis=-1)
    xyz = _WHITE * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    linear = np.clip(xyz @ _XYZ_TO_RGB.T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (srgb * 255).round().astype(np.uint8)
