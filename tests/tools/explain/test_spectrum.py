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


def radius(height: int, width: int) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))


def fine_noise() -> np.ndarray:
    """White noise of variance 1 with nothing outside [0.25, 0.5] cycles per cell."""
    waves = np.fft.fft2(np.random.default_rng(0).normal(size=(32, 32)))
    kept = (radius(32, 32) >= 0.25) & (radius(32, 32) <= 0.5)
    noise = np.fft.ifft2(waves * kept).real
    return noise / noise.std()


@pytest.mark.parametrize(("strength", "share"), [(1, 1 / 2), (3, 1 / 10), (0, 1)])
def test_a_coarse_wave_and_fine_noise_share_the_energy_as_their_variances_do(
    strength: float, share: float
) -> None:
    wave = np.sqrt(2) * np.cos(2 * np.pi * 2 * np.arange(32) / 32)
    spectrum = radial_spectrum(100 + strength * wave + fine_noise())
    assert spectrum.high_share == pytest.approx(share, abs=1e-12)
    # And each is in rings of its own; a ring a wave wide reaches a little past its frequency.
    assert spectrum.energy[2] == pytest.approx(strength**2 * 32**2)
    assert spectrum.energy[8:].sum() == pytest.approx(32**2)


def test_energy_adds_up_over_channels_and_images_and_leaves_out_the_mean() -> None:
    one = fine_noise()
    maps = np.stack([5 + one, 2 * one, -one])
    spectrum = radial_spectrum(maps[:, None])
    np.testing.assert_allclose(spectrum.energy, 6 * radial_spectrum(one).energy, atol=1e-9)
    assert spectrum.energy[0] == 0 and spectrum.amplitude[0] > 10


@pytest.mark.parametrize("shape", [(32, 32), (9, 21)])
def test_the_high_share_of_white_noise_is_that_of_its_waves_corners_among_them(
    shape: tuple[int, int],
) -> None:
    noise = np.random.default_rng(0).normal(size=(400, *shape))
    waves = radius(*shape).ravel()[1:]
    share = (waves >= 0.25).mean()
    assert radial_spectrum(noise).high_share == pytest.approx(share, abs=0.01)
    # Without the corners it would be told apart.
    assert abs((waves[waves <= 0.5] >= 0.25).mean() - share) > 0.03


def test_diagonal_waves_are_as_fine_as_they_are() -> None:
    checkered = np.indices((16, 16)).sum(0) % 2
    spectrum = radial_spectrum(checkered)
    assert spectrum.high_share == 1 and spectrum.energy.sum() == pytest.approx(0, abs=1e-9)
    diagonal = np.cos(2 * np.pi * 3 * np.indices((16, 16)).sum(0) / 16)
    # 3/16 along each axis are 0.265 along the diagonal.
    assert radial_spectrum(diagonal).high_share == pytest.approx(1)


@pytest.mark.parametrize("value", [1, 0.1, 1e6 / 3, 0])
def test_nothing_but_a_mean(value: float) -> None:
    spectrum = radial_spectrum(np.full((1, 7, 8), value, np.float32))
    assert spectrum.high_share == 0 and np.isfinite(spectrum.relative_log_amplitude).all()


def test_too_small_a_map() -> None:
    with pytest.raises(OptionError, match="4 × 4 up, got 3 × 9"):
        radial_spectrum(np.ones((3, 9)))
