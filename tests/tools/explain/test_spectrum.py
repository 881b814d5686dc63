"""Radial spectra of waves whose frequency is known."""

import numpy as np
import pytest

from foveal.errors import OptionError
from foveal.tools.explain.spectrum import radial_spectrum


@pytest.mark.parametrize("waves", [1, 5, 16])
def test_a_wave_has_its_frequency_alone(waves: int) -> None:
    row = np.cos(2 * np.pi * waves * np.arange(32) / 32)
    spectrum = radial_spectrum(np.tile(row, (3, 32, 1)))
    assert spectrum.frequency[spectrum.amplitude.argmax()] == waves / 32
    others = np.delete(spectrum.amplitude, spectrum.amplitude.argmax())
    assert others.max() < 1e-9 * spectrum.amplitude.max()
    assert spectrum.high_share == pytest.approx(float(waves >= 8))


def test_directions_count_alike() -> None:
    noise = np.random.default_rng(0).normal(size=(4, 24, 24))
    turned = radial_spectrum(np.rot90(noise, axes=(1, 2)))
    np.testing.assert_allclose(radial_spectrum(noise).amplitude, turned.amplitude)


def test_white_noise_is_level_and_blurred_noise_falls() -> None:
    noise = np.random.default_rng(0).normal(size=(256, 32, 40))
    level = radial_spectrum(noise)
    assert level.frequency[-1] == 0.5
    # The mean alone is real, of half the variance's parts, and so a little lower.
    assert np.ptp(level.relative_log_amplitude[1:]) < 0.05
    blurred = sum(np.roll(noise, step, axis) for step in range(5) for axis in (1, 2))
    falling = radial_spectrum(np.asarray(blurred))
    assert falling.relative_log_amplitude[-1] < -0.5
    assert falling.high_share < level.high_share


def test_nothing_but_a_mean() -> None:
    spectrum = radial_spectrum(np.ones((1, 8, 8)))
    assert spectrum.high_share == 0 and np.isfinite(spectrum.relative_log_amplitude).all()


def test_too_small_a_map() -> None:
    with pytest.raises(OptionError, match="4 × 4 up, got 3 × 9"):
        radial_spectrum(np.ones((3, 9)))
