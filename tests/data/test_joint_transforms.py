"""Pictures, boxes, masks and labels that are moved together, held by what is painted."""

import math
import pickle
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Mask

from foveal.data.dataset import seeded
from foveal.data.joint_augmentation import DetectionAugmentation, SegmentationAugmentation
from foveal.data.joint_transforms import (
    JointTransform,
    detection_transforms,
    scaled_size,
    segmentation_transforms,
)
from foveal.errors import OptionError

HEIGHT, WIDTH = 90, 120
IDENTITY = ((0.0,) * 3, (1.0,) * 3)
# Colour, box: each object has a channel to itself.
OBJECTS = {0: (12, 20, 60, 50), 2: (75, 40, 110, 85)}

STILL = DetectionAugmentation(
    scales=(HEIGHT,), max_side=None, hflip=0.0, eval_scale=None, eval_max_side=None
)
STILL_SCENES = SegmentationAugmentation(scales=(HEIGHT,), max_side=None, jitter=None, hflip=0.0)
RANDOM = {
    "multi-scale": replace(STILL, scales=(64, 96, 150), max_side=180),
    "flip": replace(STILL, hflip=1.0),
    "large-scale jitter": replace(STILL, scales=(64,), jitter=(0.6, 2.0), crop=(64, 64)),
    "crop": replace(STILL, crop=(48, 72)),
    "everything": replace(
        STILL, scales=(80, 100), jitter=(0.5, 2.0), crop=(90, 70), hflip=0.5, photometric=True
    ),
}


def painted() -> Image.Image:
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    for channel, (left, top, right, bottom) in OBJECTS.items():
        colour = tuple(200 if channel == other else 0 for other in range(3))
        ImageDraw.Draw(picture).rectangle((left, top, right - 1, bottom - 1), fill=colour)
    return picture


def boxes_of(values: list[Any]) -> BoundingBoxes:
    return BoundingBoxes(  # pyright: ignore[reportCallIssue]
        torch.tensor(values, dtype=torch.float32).reshape(-1, 4),
        format=BoundingBoxFormat.XYXY,
        canvas_size=(HEIGHT, WIDTH),
    )


def objects() -> dict[str, Any]:
    """The painted ones: the class is the channel, the second stands for many."""
    masks = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, OBJECTS.values(), strict=True):
        mask[top:bottom, left:right] = True
    return {
        "boxes": boxes_of(list(OBJECTS.values())),
        "labels": torch.tensor(list(OBJECTS)),
        "masks": Mask(masks),
        "crowd": torch.tensor([False, True]),
    }


def draws(
    transform: JointTransform, image: Image.Image, target: dict[str, Any], count: int = 40
) -> Iterator[tuple[Tensor, dict[str, Any]]]:
    for index in range(count):
        with seeded(0, index):
            yield transform(image, target)


def around(seen: Tensor) -> list[int]:
    """The box of the pixels that are seen."""
    rows, columns = torch.where(seen)
    return [*map(int, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))]


@pytest.mark.parametrize("name", RANDOM)
def test_boxes_and_masks_stay_on_what_is_painted(name: str):
    transform = detection_transforms(*IDENTITY, RANDOM[name], True)
    left = 0
    for image, target in draws(transform, painted(), objects()):
        assert target["masks"].shape[1:] == image.shape[1:]
        assert len({len(target[key]) for key in ("boxes", "labels", "masks", "crowd")}) == 1
        assert target["crowd"].tolist() == [label == 2 for label in target["labels"]]
        left += len(target["labels"])
        for box, label, mask in zip(
            target["boxes"], target["labels"], target["masks"], strict=True
        ):
            other = image[2 - int(label)]
            seen = image[label] > torch.maximum(other, image.max() / 2)
            # An edge lies within a pixel of where the blurred edge of the picture is taken for it.
            assert (box - torch.tensor(around(mask))).abs().max() <= 1
            assert (box - torch.tensor(around(seen))).abs().max() <= 1.5
            assert (mask & seen).sum() / (mask | seen).sum() > 0.85
    assert left > 40


@pytest.mark.parametrize("name", ["crop", "large-scale jitter"])
def test_objects_that_are_gone_are_gone_and_others_are_not(name: str):
    transform = detection_transforms(*IDENTITY, RANDOM[name], True)
    counts = set()
    for image, target in draws(transform, painted(), objects(), 80):
        visible = {channel for channel in OBJECTS if (image[channel] > 0.39).sum() > 0}
        assert visible - set(target["labels"].tolist()) == set()
        counts.add(len(target["labels"]))
    assert {1, 2} <= counts


def test_a_picture_may_be_left_without_objects():
    config = replace(STILL, crop=(32, 32))
    counts = set()
    for image, target in draws(detection_transforms(*IDENTITY, config, True), painted(), objects()):
        counts.add(len(target["boxes"]))
        if not len(target["boxes"]):
            assert target["boxes"].shape == (0, 4) and target["masks"].shape == (0, 32, 32)
            assert target["labels"].dtype == torch.int64 and image.max() == 0
    assert 0 in counts


@pytest.mark.parametrize("name", RANDOM)
def test_a_picture_without_objects_from_the_start(name: str):
    masks = Mask(torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool))
    empty = {"boxes": boxes_of([]), "labels": torch.zeros(0, dtype=torch.long), "masks": masks}
    image, target = detection_transforms(*IDENTITY, RANDOM[name], True)(painted(), empty)
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, *image.shape[1:])


def test_boxes_alone_are_cut_by_a_crop_and_slivers_are_taken_out():
    config = replace(STILL, crop=(HEIGHT, 60))
    seen = set()
    for index in range(60):
        with seeded(index):
            target = {"boxes": boxes_of([[30.5, 10, 60.25, 40]]), "labels": torch.tensor([3])}
            _, moved = detection_transforms(*IDENTITY, config, True)(painted(), target)
        for x1, _, x2, _ in moved["boxes"].tolist():
            assert 0 <= x1 <= x2 - 1 and x2 <= 60
            seen.add(x2 - x1)
        assert len(moved["labels"]) == len(moved["boxes"])
    assert max(seen) == 29.75 and min(seen) < 29.75
    sliver = {"boxes": boxes_of([[5, 5, 5.5, 40], [9, 9, 40, 9.9]]), "labels": torch.tensor([1, 2])}
    _, moved = detection_transforms(*IDENTITY, STILL, True)(painted(), sliver)
    assert len(moved["boxes"]) == len(moved["labels"]) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_a_box_that_a_crop_cuts_lies_close_around_the_rest_of_its_mask(dtype: torch.dtype):
    mask = torch.ones(HEIGHT, WIDTH).tril().bool()[:, :HEIGHT]
    mask = torch.nn.functional.pad(mask, (0, WIDTH - HEIGHT))
    triangle = {
        "boxes": boxes_of([[0, 0, HEIGHT, HEIGHT]]),
        "labels": torch.tensor([0]),
        "masks": Mask(mask[None].to(dtype)),
    }
    transform = detection_transforms(*IDENTITY, replace(STILL, crop=(40, 40)), True)
    shapes = set()
    for _, target in draws(transform, painted(), triangle):
        for box, rest in zip(target["boxes"], target["masks"], strict=True):
            assert box.tolist() == around(rest)
            shapes.add(tuple((box[2:] - box[:2]).tolist()))
    assert len(shapes) > 3


def test_masks_are_smoothly_as_large_as_the_picture_says():
    """Halved, a mask has the pixels whose centres it covers, not those of one corner of them."""
    config = replace(STILL, scales=(45,))
    target = objects()
    target["masks"][0] = False
    target["masks"][0, 21:51, 13:61] = True
    _, moved = detection_transforms(*IDENTITY, config, True)(painted(), target)
    assert around(moved["masks"][0]) == [6, 10, 30, 25]


def test_a_mirror_image_is_exact():
    transform = detection_transforms(*IDENTITY, RANDOM["flip"], True)
    image, target = transform(painted(), objects())
    plain, _ = detection_transforms(*IDENTITY, STILL, True)(painted(), objects())
    assert torch.equal(image, plain.flip(-1))
    assert torch.equal(target["masks"], objects()["masks"].as_subclass(Tensor).flip(-1))
    assert target["boxes"].tolist() == [
        [WIDTH - x2, y1, WIDTH - x1, y2] for x1, y1, x2, y2 in OBJECTS.values()
    ]


def test_what_is_drawn_depends_on_the_seed_alone():
    transform = detection_transforms(*IDENTITY, RANDOM["everything"], True)

    def drawn(seed: int) -> tuple[Tensor, Tensor]:
        with seeded(seed):
            image, target = transform(painted(), objects())
        return image, target["boxes"]

    for first, again in zip(drawn(3), drawn(3), strict=True):
        assert torch.equal(first, again)
    assert len({drawn(seed)[0].shape for seed in range(40)}) > 10


def test_the_target_that_is_given_stays_as_it_is():
    given = objects()
    detection_transforms(*IDENTITY, RANDOM["everything"], True)(painted(), given)
    for name, value in objects().items():
        assert torch.equal(given[name], value)


def coordinates() -> tuple[Image.Image, dict[str, Any]]:
    """A picture whose colours say where a pixel is, and labels that say the same."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    picture = Image.fromarray(np.stack([rows, columns, rows // 4], -1))
    return picture, {"semantic": Mask(torch.from_numpy(rows // 4))}


@pytest.mark.parametrize("crop", [(48, 64), (64, 200), (120, 48), (100, 140)])
def test_labels_of_a_crop_are_those_of_its_pixels_and_the_rest_is_ignored(crop: tuple[int, int]):
    config = replace(STILL_SCENES, crop=crop, hflip=0.5)
    mean = (0.5, 0.4, 0.3)
    transform = segmentation_transforms(mean, (0.2, 0.3, 0.4), config, True, 255)
    places = set()
    for image, target in draws(transform, *coordinates(), 20):
        labels = target["semantic"]
        assert image.shape == (3, *crop) and labels.shape == crop and labels.dtype == torch.int64
        height, width = min(crop[0], HEIGHT), min(crop[1], WIDTH)
        colours = (image[2] * 0.4 + 0.3).mul(255).round().long()
        assert torch.equal(colours[:height, :width], labels[:height, :width])
        ignored = labels == 255
        assert not ignored[:height, :width].any()
        assert int((~ignored).sum()) == height * width
        assert (image[:, ignored] == 0).all()
        places.add(tuple(labels[0, :1].tolist()) + tuple(image[1, 0, :2].tolist()))
    assert len(places) > 1


def test_jittered_labels_lie_where_their_pixels_do():
    config = replace(STILL_SCENES, scales=(60,), jitter=(0.5, 2.0), crop=(64, 64), hflip=0.5)
    picture = painted()
    channels = torch.from_numpy(np.array(picture)).argmax(-1).to(torch.uint8)
    channels[torch.from_numpy(np.array(picture)).amax(-1) == 0] = 1
    transform = segmentation_transforms(*IDENTITY, config, True, 255)
    for image, target in draws(transform, picture, {"semantic": Mask(channels)}):
        counted = target["semantic"] != 255
        bright = torch.stack([image[0], torch.full_like(image[0], 100 / 255), image[2]]).argmax(0)
        agree = (bright == target["semantic"])[counted].float().mean()
        assert agree > 0.95


@pytest.mark.parametrize("ignore_index", [255, 11, -100])
def test_any_ignore_index_fills(ignore_index: int):
    transform = segmentation_transforms(
        *IDENTITY, replace(STILL_SCENES, crop=(100, 130)), True, ignore_index
    )
    _, target = transform(*coordinates())
    assert target["semantic"][-1, -1] == ignore_index and target["semantic"][0, 0] == 0


def share(labels: Tensor, ignore_index: int = 255) -> float:
    """Of the most frequent class among the pixels that count, 1 where there are none."""
    counts = torch.bincount(labels[labels != ignore_index], minlength=1)
    return int(counts.max()) / int(counts.sum()) if counts.sum() else 1.0


def halves() -> dict[str, Any]:
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    labels[:, WIDTH // 2 :] = 1
    return {"semantic": Mask(labels)}


def shares(ratio: float, target: dict[str, Any]) -> list[float]:
    config = replace(STILL_SCENES, crop=(60, 60), cat_max_ratio=ratio)
    transform = segmentation_transforms(*IDENTITY, config, True, 255)
    return [share(moved["semantic"]) for _, moved in draws(transform, painted(), target, 60)]


def test_no_class_takes_up_more_of_a_crop_than_is_allowed():
    assert max(shares(1.0, halves())) > 0.9
    assert max(shares(0.75, halves())) < 0.75


def test_pixels_that_do_not_count_are_no_class_of_a_crop():
    target = halves()
    target["semantic"][:, WIDTH // 2 :] = 255
    target["semantic"][:, : WIDTH // 4] = 1
    unlimited, limited = (np.mean(np.array(shares(r, target)) < 0.75) for r in (1.0, 0.75))
    assert unlimited < 0.5 and limited > 0.9


def test_a_picture_of_one_class_alone_is_cropped_all_the_same():
    assert shares(0.75, {"semantic": Mask(torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8))})


def test_colours_change_and_keep_their_channel():
    config = replace(STILL, photometric=True)
    transform = detection_transforms(*IDENTITY, config, True)
    plain, _ = detection_transforms(*IDENTITY, STILL, True)(painted(), objects())
    changed = [image for image, _ in draws(transform, painted(), objects())]
    assert sum(not torch.equal(image, plain) for image in changed) > 30
    left, top, right, bottom = OBJECTS[0]
    for image in changed:
        assert image[:, top:bottom, left:right].mean((1, 2)).argmax() == 0


def test_judging_detection_resizes_and_draws_nothing():
    config = DetectionAugmentation(
        eval_scale=180, eval_max_side=200, photometric=True, crop=(32, 32)
    )
    transform = detection_transforms((0.5,) * 3, (0.25,) * 3, config, False)
    image, target = transform(painted(), objects())
    assert image.shape == (3, 150, 200)
    expected = torch.tensor(list(OBJECTS.values())) * (200 / WIDTH)
    assert torch.allclose(target["boxes"], expected)
    assert target["labels"].tolist() == list(OBJECTS)
    assert image[1].unique().tolist() == [-2.0]
    assert torch.equal(image, transform(painted(), objects())[0])


def test_judging_keeps_the_size_where_no_scale_is_set_and_segmentation_always():
    given = objects()
    image, target = detection_transforms(*IDENTITY, STILL, False)(painted(), given)
    assert image.shape == (3, HEIGHT, WIDTH)
    assert torch.equal(target["boxes"], given["boxes"].as_subclass(Tensor))
    picture, labels = coordinates()
    image, target = segmentation_transforms(*IDENTITY, SegmentationAugmentation(), False, 255)(
        picture, labels
    )
    assert torch.equal(target["semantic"], labels["semantic"].as_subclass(Tensor).long())
    assert torch.equal(image[2].mul(255).round().long(), target["semantic"])


def test_judging_takes_no_object_out():
    tiny = {"boxes": boxes_of([[5, 5, 5.2, 40]]), "labels": torch.tensor([1])}
    assert len(detection_transforms(*IDENTITY, STILL, False)(painted(), tiny)[1]["boxes"]) == 1


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((480, 640), 1333, (800, 1067)),
        ((640, 480), 1333, (1067, 800)),
        ((300, 1000), 1333, (400, 1333)),
        ((300, 1000), None, (800, 2667)),
        ((4, 4000), 1333, (1, 1333)),
    ],
)
def test_sides_keep_their_proportion(size, longest, expected):
    assert scaled_size(size, 800, longest) == expected


def test_results_are_plain_tensors_and_other_values_are_handed_through():
    given = {**objects(), "name": "a", "size": (3, 4)}
    image, target = detection_transforms(*IDENTITY, RANDOM["everything"], True)(painted(), given)
    kinds = {name: target[name].dtype for name in ("boxes", "labels", "masks", "crowd")}
    assert list(kinds.values()) == [torch.float32, torch.int64, torch.bool, torch.bool]
    assert all(type(value) is Tensor for value in (image, *(target[name] for name in kinds)))
    assert (target["name"], target["size"]) == ("a", (3, 4))


def test_transforms_go_to_other_processes():
    scenes = replace(STILL_SCENES, crop=(90, 70), hflip=0.5, photometric=True)
    for transform in (
        detection_transforms(*IDENTITY, RANDOM["everything"], True),
        segmentation_transforms(*IDENTITY, scenes, True, 255),
    ):
        assert pickle.dumps(transform)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scales": ()}, "scales are one or more"),
        ({"scales": (16, 64)}, r"from 32 pixels up, got \[16, 64\]"),
        ({"max_side": 700}, "max_side limits the longer side and is no less than .* 800, got 700"),
        ({"eval_scale": 8}, "eval_scale is a shorter side"),
        ({"eval_max_side": 700}, "eval_max_side limits"),
        ({"jitter": (0.0, 2.0)}, "jitter is a least and a greatest factor"),
        ({"jitter": (2.0, 0.5)}, "jitter is"),
        ({"jitter": (1.0, math.inf)}, "jitter is"),
        ({"crop": (512, 8)}, r"crop is a height and a width .* got \[512, 8\]"),
        ({"cat_max_ratio": 0.0}, "cat_max_ratio lies above 0"),
        ({"cat_max_ratio": 1.1}, "cat_max_ratio"),
        ({"hflip": 1.5}, "hflip lies between 0 and 1, got 1.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str):
    with pytest.raises(OptionError, match=words):
        known = SegmentationAugmentation if "cat_max_ratio" in options else DetectionAugmentation
        known(**options)


def test_segmentation_is_not_trained_without_a_crop():
    nothing: Any = None
    with pytest.raises(OptionError, match="give crop a height and a width"):
        SegmentationAugmentation(crop=nothing)
