"""How fine a map's structure is: its spectrum by distance from the mean."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from foveal.errors import OptionError

# Energy beside the mean's below this share is the rounding of a transform in double precision.
_ROUNDING = 1e-28


@dataclass(frozen=True, eq=False)
class RadialSpectrum:
    """The amplitude of a map's waves by their frequency in any direction.

    Attributes:
        frequency: in cycles per cell, from 0 (the mean) to 0.5 (every other cell).
        amplitude: mean absolute Fourier coefficient over the waves of about that frequency, all
            channels and images.
        energy: sum of the squared absolute coefficients over the same waves, the mean left out.
            Diagonal waves past 0.5 are in neither.
        high_share: share of the energy, the mean left out, in waves from 0.25 cycles per cell up,
            diagonal ones past 0.5 among them; in [0, 1], and 0 for maps that are all mean.
    """

    frequency: Float[np.ndarray, " n"]
    amplitude: Float[np.ndarray, " n"]
    energy: Float[np.ndarray, " n"]
    high_share: float

    @property
    def relative_log_amplitude(self) -> Float[np.ndarray, " n"]:
        """log(amplitude / the lowest frequency's), from 0: the higher, the finer the structure."""
        tiny = np.finfo(np.float64).tiny
        logs = np.log(np.maximum(self.amplitude, tiny))
        return logs - logs[0]


def radial_spectrum(maps: Float[np.ndarray, "*shape h w"]) -> RadialSpectrum:
    """The spectrum of maps, as Park and Kim compare layers (ICLR 2022, arXiv 2202.06709).

    CloFormer's claim, that its local branch is of high and its global branch of low frequency, is
    the difference between the two branches' curves.

    Args:
        maps: of any number of channels and images; at least 4 rows and columns.

    Raises:
        OptionError: the maps are smaller.
    """
    h, w = maps.shape[-2:]
    if min(h, w) < 4:
        raise OptionError(f"A spectrum needs maps from 4 × 4 up, got {h} × {w}.")
    waves = np.abs(np.fft.fft2(maps.astype(np.float64), norm="ortho")).reshape(-1, h, w)
    amplitude, energy = waves.mean(0), np.square(waves).sum(0)
    is_constant = energy.sum() - energy[0, 0] <= _ROUNDING * energy[0, 0]
    energy[0, 0] = 0
    radius = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None])
    # Rings one wave of the shorter side apart; the corners past 0.5 hold diagonal waves alone.
    ring = np.round(radius * min(h, w)).astype(int)
    kept = ring <= min(h, w) // 2
    count = np.bincount(ring[kept])
    # By each wave's own frequency, as a ring about 0.25 holds waves of both kinds.
    high = energy[radius >= 0.25 - 1e-9].sum()
    return RadialSpectrum(
        frequency=np.arange(len(count)) / min(h, w),
        amplitude=np.bincount(ring[kept], amplitude[kept]) / count,
        energy=np.bincount(ring[kept], energy[kept]),
        high_share=0.0 if is_constant else float(high / energy.sum()),
    )
