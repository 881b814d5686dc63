"""Pictures of every kind come out upright, in the mode asked for, and in the right colours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from foveal.data.images import ImageError, read_image, verify_image

# Dark left half, light right half: both a side and a scale to go wrong.
HALVES = np.repeat(np.array([[40, 200]], np.uint8), 8, 1).repeat(12, 0)


def halves(image: Image.Image) -> tuple[float, float]:
    """Mean intensity left and right."""
    grey = np.asarray(image.convert("L"), dtype=float)
    middle = grey.shape[1] // 2
    return grey[:, :middle].mean(), grey[:, middle:].mean()


def written(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("stored", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_kind(stored: str, mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(HALVES)
    if stored == "I;16":
        image = Image.fromarray(HALVES.astype(np.uint16) * 257)
    elif stored == "I":
        image = Image.fromarray(HALVES.astype(np.int32) * 257)
    elif stored == "F":
        image = Image.fromarray(HALVES.astype(np.float32) / 255)
    elif stored == "P":
        image = grey.convert("RGB").quantize(2)
    elif stored == "CMYK":
        image = grey.convert("RGB").convert(stored)
    else:
        image = grey.convert(stored, dither=Image.Dither.NONE)
    path = written(tmp_path / ("a.tif" if stored in ("CMYK", "I", "F") else "a.png"), image)
    read = read_image(path, mode)
    assert read.mode == mode and read.size == (16, 12)
    expected = (0, 255) if stored == "1" else (40, 200)
    np.testing.assert_allclose(halves(read), expected, atol=2)


def test_turned_by_exif(tmp_path: Path) -> None:
    exif = Image.Exif()
    # The camera lay on its side: the picture is to be turned by a quarter.
    exif[ExifTags.Base.Orientation] = 8
    sideways = Image.fromarray(HALVES).rotate(-90, expand=True).convert("RGB")
    read = read_image(written(tmp_path / "a.jpg", sideways, exif=exif, quality=95))
    assert read.size == (16, 12)
    np.testing.assert_allclose(halves(read), (40, 200), atol=4)


def test_transparent_parts_lie_on_white(tmp_path: Path) -> None:
    alpha = Image.fromarray(np.where(HALVES == 40, 0, 255).astype(np.uint8))
    image = Image.merge("RGBA", [*Image.new("RGB", (16, 12), (10, 20, 30)).split(), alpha])
    path = written(tmp_path / "a.png", image)
    pixels = np.asarray(read_image(path, "RGB"))
    np.testing.assert_array_equal(pixels[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(pixels[0, -1], [10, 20, 30])
    # Where the model takes opacity as a channel, nothing is laid on anything.
    np.testing.assert_array_equal(np.asarray(read_image(path, "RGBA"))[0, 0], [10, 20, 30, 0])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_reduced(suffix: str, tmp_path: Path) -> None:
    large = Image.fromarray(HALVES).resize((1600, 1200)).convert("RGB")
    path = written(tmp_path / f"a.{suffix}", large)
    read = read_image(path, at_most=200)
    assert read.size == (267, 200)
    np.testing.assert_allclose(halves(read), (40, 200), atol=3)
    assert read_image(path, at_most=1600).size == (1600, 1200)


def test_more_pixels_than_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.png", Image.new("L", (100, 100)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    with pytest.raises(ImageError, match="more than 0 million pixels; reduce it first"):
        read_image(path)
    assert "reduce it first" in str(verify_image(path))
