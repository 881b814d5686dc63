"""ImageNet-C's corruptions: those there are, and what decides their randomness."""

import numpy as np
import pytest
import torch
from imagecorruptions import get_corruption_names
from PIL import Image
from torch import Tensor

from foveal.data.dataset import ImageDataset, Samples
from foveal.data.transforms import Preprocessing
from foveal.errors import FovealError, MissingExtraError
from foveal.tools.corruptions import (
    CORRUPTIONS,
    EXTRA,
    STANDARD,
    CorruptedInput,
    corruption_names,
)

PREPROCESSING = Preprocessing(image_size=224, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """Smooth shapes with edges, wider than high."""
    y, x = np.mgrid[0:256, 0:300]
    waves = [127 + 100 * np.sin(x / 17 + k) * np.cos(y / 23) for k in range(3)]
    array = np.stack(waves, -1)
    array[80:160, 90:200] = (200, 60, 30)
    return Image.fromarray(array.astype(np.uint8))


def corrupted(photo: Image.Image, name: str, severity: int, number: int) -> Tensor:
    """What a data set of that corruption gives for a photo at that place in it."""
    samples = Samples([photo] * (number + 1), [0] * (number + 1), ["photo"] * (number + 1))
    transform = CorruptedInput(name, severity, PREPROCESSING)
    dataset = ImageDataset(samples, transform, seed=CORRUPTIONS.index(name))
    dataset.set_epoch(severity)
    return dataset[number]["image"]


def test_the_names_are_the_librarys():
    assert list(STANDARD) == get_corruption_names("common")
    assert list(EXTRA) == get_corruption_names("validation")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_an_images_number_and_severity_decide_alone(photo: Image.Image, name: str):
    first = corrupted(photo, name, 2, number=1)
    np.random.seed(99)
    torch.manual_seed(99)
    assert torch.equal(first, corrupted(photo, name, 2, number=1))
    assert not torch.equal(first, corrupted(photo, name, 4, number=1))
    drawn = name not in {
        *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
        *("gaussian_blur", "saturate"),
    }
    assert torch.equal(first, corrupted(photo, name, 2, number=0)) != drawn
    assert first.shape == (3, 224, 224) and first.isfinite().all()


def test_noise_grows_with_severity_from_the_centre_of_a_256_pixel_side(photo: Image.Image):
    clean = np.asarray(photo.crop((38, 16, 262, 240))) / 255
    distances = [
        np.abs(corrupted(photo, "gaussian_noise", s, 0).permute(1, 2, 0).numpy() - clean).mean()
        for s in (1, 3, 5)
    ]
    assert 0.02 < distances[0] < distances[1] < distances[2]
    gentle = corrupted(photo, "jpeg_compression", 1, 0).permute(1, 2, 0).numpy()
    assert np.abs(gentle - clean).mean() < 0.03


@pytest.mark.parametrize(("channels", "size"), [(1, 224), (3, 96), (4, 32)])
def test_networks_get_the_channels_and_size_they_take(photo: Image.Image, channels: int, size: int):
    preprocessing = Preprocessing(image_size=size, mean=(0.5,) * channels, std=(1.0,) * channels)
    assert CorruptedInput("fog", 3, preprocessing)(photo).shape == (channels, size, size)


def test_groups_and_names_are_understood():
    assert corruption_names("all") == CORRUPTIONS and len(CORRUPTIONS) == 19
    assert corruption_names("standard") == STANDARD and corruption_names("extra") == EXTRA
    assert corruption_names("snow,fog,gaussian_noise") == ("gaussian_noise", "snow", "fog")
    with pytest.raises(FovealError, match="Did you mean 'snow'"):
        corruption_names("fog,snwo")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "imagecorruptions", None)
    with pytest.raises(MissingExtraError, match=r"imagecorruptions-imaug.*foveal\[robustness\]"):
        CorruptedInput("fog", 1, PREPROCESSING)
