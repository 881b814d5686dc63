"""How fine a map's structure is: its spectrum by distance from the mean."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from foveal.errors import OptionError


@dataclass(frozen=True, eq=False)
class RadialSpectrum:
    """The amplitude of a map's waves by their frequency in any direction.

    Attributes:
        frequency: in cycles per cell, from 0 (the mean) to 0.5 (every other cell).
        amplitude: mean absolute Fourier coefficient over the waves of about that frequency, all
            channels and images.
    """

    frequency: Float[np.ndarray, " n"]
    amplitude: Float[np.ndarray, " n"]

    @property
    def relative_log_amplitude(self) -> Float[np.ndarray, " n"]:
        """log(amplitude / the lowest frequency's), from 0: the higher, the finer the structure."""
        tiny = np.finfo(np.float64).tiny
        logs = np.log(np.maximum(self.amplitude, tiny))
        return logs - logs[0]

    @property
    def high_share(self) -> float:
        """Share of the energy, the mean left out, in frequencies from 0.25 up, in [0, 1]."""
        energy = np.square(self.amplitude) * self.frequency
        total = energy.sum()
        return float(energy[self.frequency >= 0.25].sum() / total) if total else 0.0


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
    spectrum = np.abs(np.fft.fft2(maps, norm="ortho")).reshape(-1, h, w).mean(0)
    radius = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None])
    # Rings one wave of the shorter side apart; the corners past 0.5 hold diagonal waves alone.
    ring = np.round(radius * min(h, w)).astype(int)
    kept = ring <= min(h, w) // 2
    count = np.bincount(ring[kept])
    amplitude = np.bincount(ring[kept], spectrum[kept]) / count
    return RadialSpectrum(np.arange(len(count)) / min(h, w), amplitude)
