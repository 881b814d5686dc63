"""Samples as tensors: the same for the same seed, whatever loads them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.data.dataset import ImageDataset, Samples, seeded
from foveal.data.digits import load_digits
from foveal.data.images import ImageError, read_image
from foveal.data.loader import train_loader
from foveal.data.sharding import shuffled
from foveal.data.split import stratified_split
from foveal.data.transforms import (
    Augmentation,
    Preprocessing,
    eval_transform,
    resolve_preprocessing,
    train_transform,
)
from foveal.errors import FovealError
from tests.pictures import picture

PREPROCESSING = Preprocessing(image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)


def dataset(seed: int = 0) -> ImageDataset:
    images = [picture("red", number) for number in range(8)]
    samples = Samples(images, list(range(8)), [str(number) for number in range(8)])
    transform = train_transform(PREPROCESSING, Augmentation(auto_augment="rand-m9-mstd0.5-inc1"))
    return ImageDataset(samples, transform, seed=seed)


def batches(workers: int, seed: int = 0, epoch: int = 0) -> list[dict[str, torch.Tensor]]:
    loader = train_loader(dataset(seed), batch_size=4, workers=workers, seed=seed)
    loader.set_epoch(epoch)
    return list(loader)


def test_batches_depend_on_seed_and_epoch_and_not_on_workers():
    alone, with_workers = batches(0), batches(2)
    for one, other in zip(alone, with_workers, strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["index"], other["index"])
    assert not torch.equal(batches(0, seed=1)[0]["image"], alone[0]["image"])
    assert not torch.equal(batches(0, epoch=1)[0]["image"], alone[0]["image"])


def generators() -> list[Any]:
    """The state of every global generator."""
    numpy: Any = np.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist()]


def test_transforms_leave_the_global_generators_alone():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    before = generators()
    assert dataset()[3]["image"].shape == (3, 32, 32)
    assert before == generators()


def test_seeded_numbers_repeat():
    drawn = []
    for key in ((1, 2), (1, 2), (2, 1)):
        with seeded(*key):
            drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1] != drawn[2]


def test_every_epoch_has_an_order_of_its_own():
    first, second = (shuffled(50, seed=0, epoch=epoch) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second


def test_the_split_is_stratified_and_never_empties_a_class():
    labels = [0] * 40 + [1] * 2 + [2]
    train, val = stratified_split(labels, 0.1)
    assert sorted(train + val) == list(range(43))
    assert [labels[i] for i in val] == [0] * 4 + [1]
    with pytest.raises(FovealError, match="between 0 and 1"):
        stratified_split(labels, 1.0)


def test_digits_are_the_real_scans():
    data = load_digits()
    assert len(data.train) + len(data.val) == 1797
    assert 445 <= len(data.val) <= 455
    assert all(40 <= data.val.labels.count(digit) <= 50 for digit in range(10))
    assert load_digits().val.names == data.val.names != load_digits(seed=1).val.names
    image = data.train.sources[0]
    assert isinstance(image, Image.Image) and image.size == (8, 8)
    assert 200 < np.asarray(image).max() <= 255


@pytest.mark.parametrize(("in_chans", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_other_channel_counts(in_chans: int, mode: str):
    cfg = {"mean": (0.2, 0.4, 0.6), "std": (0.1, 0.2, 0.3), "input_size": (3, 224, 224)}
    preprocessing = resolve_preprocessing(cfg, image_size=48, in_chans=in_chans)
    assert preprocessing.in_chans == in_chans
    assert preprocessing.mean[0] == pytest.approx(0.2 if in_chans == 3 else 0.4)
    for make in (eval_transform(preprocessing), train_transform(preprocessing, Augmentation())):
        assert make(picture("red", 0).convert(mode)).shape == (in_chans, 48, 48)


def test_preprocessing_survives_a_file_and_refuses_tiny_images():
    assert Preprocessing.from_dict(PREPROCESSING.to_dict()) == PREPROCESSING
    with pytest.raises(FovealError, match="from 32 pixels"):
        Preprocessing(image_size=31, mean=(0.5,), std=(0.5,))


def test_sixteen_bit_greys_are_scaled(tmp_path: Path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(path)
    assert abs(int(np.asarray(read_image(path))[0, 0, 0]) - 128) <= 1


@pytest.mark.parametrize("name", ["missing.png", "."])
def test_what_is_no_image(tmp_path: Path, name: str):
    with pytest.raises(ImageError, match="is not an image that can be read"):
        read_image(tmp_path / name)
