"""Objects in images as samples and batches: the same for the same seed, also after a resume."""

import random
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from foveal.data.coco import read_coco
from foveal.data.detection import AnnotatedImages, DetectionDataset, collate_detection
from foveal.data.loader import TrainLoader, eval_loader, train_loader
from foveal.errors import FovealError
from tests.data.coco_files import HEIGHT, POLYGON, WIDTH, content, stand_in, write

Batches = list[dict[str, Any]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> AnnotatedImages:
    """Nine pictures with a mask in each but the last."""
    data = content(9)
    for entry in data["annotations"]:
        entry["segmentation"] = POLYGON
    return read_coco(*write(tmp_path_factory.mktemp("coco"), data), masks=True)


def flip_or_scale(image: Image.Image, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """Random, by Python's and by torch's generator, and of several sizes."""
    tensor, target = stand_in(image, target)
    if random.random() < 0.5:
        tensor = F.horizontal_flip(tensor)
        target = {
            k: v if k in ("labels", "crowd") else F.horizontal_flip(v) for k, v in target.items()
        }
    side = int(torch.randint(20, 60, ()))
    target = {k: v if k in ("labels", "crowd") else F.resize(v, [side]) for k, v in target.items()}
    return F.resize(tensor, [side]), target


def loader(images: AnnotatedImages, **options: Any) -> TrainLoader:
    chosen = {"batch_size": 2, "seed": 4, **options}
    dataset = images.dataset(flip_or_scale, seed=4)
    return train_loader(dataset, collate_fn=collate_detection, **chosen)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and bool((one == other).all())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_an_item_is_what_the_heads_expect(images: AnnotatedImages):
    item = images.dataset(stand_in)[0]
    assert item["image"].shape == (3, HEIGHT, WIDTH) and item["image"].is_floating_point()
    assert (item["index"], item["image_id"], item["size"]) == (0, 1, (HEIGHT, WIDTH))
    assert item["name"].endswith("1.png")
    target = item["target"]
    assert all(type(value) is Tensor for value in target.values()), "no special tensors"
    assert target["boxes"].tolist() == [[5, 5, 20.5, 18]] and target["labels"].tolist() == [1]
    assert target["masks"].dtype == target["crowd"].dtype == torch.bool
    assert target["masks"].shape == (1, HEIGHT, WIDTH) and target["masks"][0, 10, 10]
    empty = images.dataset(stand_in)[8]["target"]
    assert empty["boxes"].shape == (0, 4) and empty["masks"].shape == (0, HEIGHT, WIDTH)
    assert empty["labels"].dtype == torch.int64 and empty["boxes"].dtype == torch.float32


def test_transforms_get_tv_tensors_of_their_own(images: AnnotatedImages):
    def spoil(image: Image.Image, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        assert image.mode == "RGB" and isinstance(target["masks"], tv_tensors.Mask)
        boxes = target["boxes"]
        assert isinstance(boxes, tv_tensors.BoundingBoxes)
        assert boxes.canvas_size == (HEIGHT, WIDTH)
        assert boxes.format == tv_tensors.BoundingBoxFormat.XYXY
        boxes += 1
        target["labels"] += 1
        return stand_in(image, target)

    dataset = images.dataset(spoil)
    assert same(dataset[0], dataset[0]), "the data stay as they are"


def test_samples_depend_on_seed_epoch_and_index_alone(images: AnnotatedImages):
    dataset = images.dataset(flip_or_scale, seed=1)
    first = [dataset[index] for index in range(9)]
    assert all(map(same, first, [dataset[index] for index in reversed(range(9))][::-1]))
    dataset.set_epoch(1)
    assert not all(map(same, first, (dataset[index] for index in range(9))))
    other = DetectionDataset(images.images, flip_or_scale, seed=2)
    assert not all(map(same, first, (other[index] for index in range(9))))


def test_a_batch_is_lists(images: AnnotatedImages):
    dataset = images.dataset(flip_or_scale)
    batch = collate_detection([dataset[3], dataset[8]])
    assert batch["index"].tolist() == [3, 8] and batch["image_id"] == [4, 9]
    assert batch["size"] == [(HEIGHT, WIDTH)] * 2 and batch["name"][1].endswith("9.png")
    assert [image.ndim for image in batch["image"]] == [3, 3]
    assert [len(target["boxes"]) for target in batch["target"]] == [1, 0]


def test_workers_change_nothing(images: AnnotatedImages):
    alone, helped = list(loader(images)), list(loader(images, workers=2))
    assert len(alone) == 4 and same(alone, helped)


@pytest.mark.parametrize("after", [1, 3])
def test_a_resumed_epoch_is_the_unbroken_one(images: AnnotatedImages, after: int):
    whole = list(loader(images))
    stopped = loader(images)
    batches = iter(stopped)
    begun: Batches = [next(batches) for _ in range(after)]
    resumed = loader(images)
    resumed.load_state_dict(stopped.state_dict())
    assert same(whole, [*begun, *resumed])
    with pytest.raises(FovealError, match="a batch size of 2, not 3"):
        loader(images, batch_size=3).load_state_dict(stopped.state_dict())


def test_judging_has_every_image_once_in_order(images: AnnotatedImages):
    dataset = images.dataset(stand_in)
    ranks = [
        list(eval_loader(dataset, batch_size=2, collate_fn=collate_detection, rank=r, world=2))
        for r in range(2)
    ]
    seen = [number for batch in ranks[0] + ranks[1] for number in batch["image_id"]]
    assert seen == [1, 3, 5, 7, 9, 2, 4, 6, 8]
