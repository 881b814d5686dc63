"""Detectors on torchvision: they learn, find, freeze, save; and are torchvision's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.optim import create_optimizer_v2
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet

from foveal.errors import FovealError, OptionError
from foveal.models.freezing import freeze
from foveal.models.pyramid import Pyramid
from foveal.tasks.detection.contract import Detector, Target
from foveal.tasks.detection.fpn import FeaturePyramid
from foveal.tasks.detection.heads import TORCHVISION_HEADS, create_detector
from foveal.tasks.detection.torchvision_heads import TorchvisionDetector
from tests.models.families import SHALLOW, SMALLEST
from tests.tasks.detection.small_detectors import losses, objects, pictures, small_detector

HEADS = tuple(TORCHVISION_HEADS)
PLAIN = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN, "retinanet": RetinaNet, "fcos": FCOS}
SIZES = ((64, 64), (72, 96))


def takes_a_step(detector: Detector, size: tuple[int, int]) -> None:
    """Everything that is trained gets a finite gradient, and the loss moves with it."""
    images, targets = pictures(size, size), [objects(*size), objects(*size, count=1)]
    optimizer = torch.optim.SGD(detector.parameters(), lr=1e-3)
    optimizer.zero_grad()
    total = torch.stack(list(losses(detector, images, targets).values())).sum()
    total.backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), name
    for name, parameter in detector.pyramid().named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.any(), f"{name} has a gradient of zeros"
    optimizer.step()
    after = torch.stack(list(losses(detector, images, targets).values())).sum()
    assert after.isfinite()
    assert after != total


def plain(head: str) -> tuple[TorchvisionDetector, Any]:
    """A detector, and torchvision's class with its own defaults and the same weights."""
    # torchvision's mask head has 256 channels whatever the pyramid's.
    channels = 256 if head == "mask_rcnn" else 64
    few: dict[str, Any] = (
        {}
        if head in ("retinanet", "fcos")
        else {"rpn_post_nms_top_n_test": 20, "box_batch_size_per_image": 32}
    )
    shallow = SHALLOW["focalnet_tiny_srf"]
    detector, other = (
        create_detector(
            head, "focalnet_tiny_srf", 3, backbone_options=shallow, fpn_channels=channels, **few
        )
        for _ in range(2)
    )
    assert isinstance(detector, TorchvisionDetector)
    assert isinstance(other, TorchvisionDetector)
    network = PLAIN[head](
        other.network.backbone,  # pyright: ignore[reportArgumentType]
        3 + detector.first_label,
        min_size=96,
        max_size=96,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        # Or it draws a size by chance, if from one alone.
        _skip_resize=True,
        **few,
    )
    network.load_state_dict(detector.network.state_dict())
    return detector, network


@pytest.mark.parametrize("head", HEADS)
def test_every_head_takes_steps_at_two_sizes(head: str) -> None:
    detector = small_detector(head)
    for size in SIZES:
        takes_a_step(detector, size)


@pytest.mark.parametrize("family", [*SMALLEST, "timm:resnet18"])
def test_every_family_takes_a_step_in_faster_rcnn(family: str) -> None:
    # timm starts a ResNet with branches that are zero, and so are their gradients.
    zero = {"zero_init_last": False} if "resnet" in family else {}
    takes_a_step(small_detector("faster_rcnn", family, backbone_options=zero), (64, 64))


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", SMALLEST)
def test_every_head_takes_steps_on_every_family(family: str, head: str) -> None:
    detector = small_detector(head, family)
    for size in SIZES:
        takes_a_step(detector, size)


@pytest.mark.parametrize("head", PLAIN)
def test_losses_and_findings_are_those_of_torchvision(head: str) -> None:
    detector, network = plain(head)
    images, target = pictures((96, 96), seed=1), objects(96, 96)
    ours = losses(detector, images, [target])
    torch.manual_seed(0)
    shifted = {**target, "labels": target["labels"] + detector.first_label}
    theirs = network(images, [shifted])
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

    # Untrained one-stage heads keep to the 1 per cent that they start at.
    both: tuple[Any, Any] = (detector.network, network)
    for part in both:
        if head in ("retinanet", "fcos"):
            part.score_thresh = 0.005
    with torch.no_grad():
        found = detector.eval().find(images)[0]
        (result,) = network.eval()(images)
    assert len(found["boxes"]) > 10
    assert torch.equal(found["boxes"], result["boxes"])
    assert torch.equal(found["scores"], result["scores"])
    assert torch.equal(found["labels"] + detector.first_label, result["labels"])
    assert ("masks" in found) == ("masks" in result)
    if "masks" in found:
        assert torch.equal(found["masks"], result["masks"][:, 0] >= 0.5)


@pytest.mark.parametrize("head", HEADS)
def test_the_network_is_torchvisions_class(head: str) -> None:
    expected = PLAIN.get(head, MaskRCNN if "mask" in head else FasterRCNN)
    detector = small_detector(head)
    assert type(detector.network) is expected
    assert detector.has_masks == ("mask" in head)


@pytest.mark.parametrize("head", HEADS)
def test_what_is_found_lies_in_its_image_with_our_labels(head: str) -> None:
    options: dict[str, Any] = {
        "score_thresh" if head in ("retinanet", "fcos") else "box_score_thresh": 0.0
    }
    detector = small_detector(head, **options).eval()
    sizes = ((64, 96), (40, 70))
    with torch.no_grad():
        found = detector(pictures(*sizes))
    for (height, width), objects_found in zip(sizes, found, strict=True):
        boxes, labels, scores = (objects_found[key] for key in ("boxes", "labels", "scores"))
        assert len(boxes)
        assert boxes.min() >= 0
        assert (boxes.amax(0) <= torch.tensor([width, height, width, height])).all()
        assert set(labels.tolist()) <= {0, 1, 2}
        assert (scores.diff() <= 0).all()
        if detector.has_masks:
            assert objects_found["masks"].shape == (len(boxes), height, width)
            assert objects_found["masks"].dtype == torch.bool


@pytest.mark.parametrize("head", HEADS)
def test_an_empty_image_and_one_below_the_largest_stride(head: str) -> None:
    detector = small_detector(head)
    images, targets = pictures((20, 24)), [objects(20, 24, count=0)]
    total = torch.stack(list(losses(detector, images, targets).values())).sum()
    assert total.isfinite()
    total.backward()
    for parameter in detector.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    detector.eval()(images)


@pytest.mark.parametrize("head", HEADS)
def test_crowds_are_left_out_of_training(head: str) -> None:
    detector = small_detector(head)
    images, both = pictures((64, 64)), objects(64, 64)
    crowded: Target = {**both, "crowd": torch.tensor([False, True])}
    with torch.no_grad():
        without = losses(detector, images, [objects(64, 64, count=1)])
        assert losses(detector, images, [crowded]) == without
        assert losses(detector, images, [both]) != without


def test_images_are_neither_normalised_nor_resized_again() -> None:
    detector = small_detector("faster_rcnn")
    images = pictures((64, 96), (40, 70))
    transform = detector.network.transform
    for transform.training in (True, False):
        batch, targets = transform(images, [dict(objects(64, 96)), dict(objects(40, 70))])
        assert batch.tensors.shape == (2, 3, 64, 96)
        assert batch.image_sizes == [(64, 96), (40, 70)]
        assert torch.equal(batch.tensors[0], images[0])
        assert torch.equal(batch.tensors[1, :, :40, :70], images[1])
        assert not batch.tensors[1, :, 40:].any()
        assert torch.equal(targets[1]["boxes"], objects(40, 70)["boxes"])


@pytest.mark.parametrize("head", ["mask_rcnn", "cascade_mask_rcnn"])
def test_the_first_image_seen_changes_nothing_for_the_next(head: str) -> None:
    """torchvision keeps the strides that it guesses from its first batch; 40 pixels mislead it."""
    fresh, seasoned = small_detector(head).eval(), small_detector(head).eval()
    with torch.no_grad():
        seasoned(pictures((40, 40)))
        a, b = (detector(pictures((96, 96)))[0] for detector in (fresh, seasoned))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("head", HEADS)
def test_losses_and_findings_in_either_mode(head: str) -> None:
    detector = small_detector(head, drop_path_rate=0.5).eval()
    images, targets = pictures((64, 64)), [objects(64, 64)]
    with torch.no_grad():
        first, second = (losses(detector, images, targets) for _ in range(2))
        # The samples are drawn alike, and in eval mode no branch is dropped.
        assert first == second
        assert not any(module.training for module in detector.modules())
        detector.train()
        assert isinstance(detector(images), list)
        assert all(module.training for module in detector.modules())
        torch.manual_seed(0)
        detector.find(images)
        # Branches are dropped while training, whichever is asked for.
        assert losses(detector, images, targets) != first


@pytest.mark.parametrize("head", HEADS)
def test_a_saved_detector_finds_the_same_in_a_fresh_one(head: str, tmp_path: Path) -> None:
    detector = small_detector(head, seed=1).eval()
    save_file(detector.state_dict(), tmp_path / "detector.safetensors")
    fresh = small_detector(head, seed=2).eval()
    images = pictures((64, 64))
    targets = [objects(64, 64)]
    with torch.no_grad():
        assert losses(fresh, images, targets) != losses(detector, images, targets)
        fresh.load_state_dict(load_file(tmp_path / "detector.safetensors"))
        assert losses(fresh, images, targets) == losses(detector, images, targets)
        torch.testing.assert_close(fresh(images), detector(images), rtol=0, atol=0)


@pytest.mark.parametrize("backbone", ["focalnet_tiny_srf", "dat_pp_tiny", "timm:resnet18"])
def test_layer_decay_puts_the_head_last(backbone: str) -> None:
    detector = small_detector("retinanet", backbone)
    optimizer = create_optimizer_v2(detector, "adamw", lr=1.0, layer_decay=0.5)
    scales = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    of = {name: scales[id(p)] for name, p in detector.named_parameters()}
    inside = {id(p) for p in detector.pyramid().model.parameters()}
    head = {n: s for n, s in of.items() if id(detector.get_parameter(n)) not in inside}
    body = {n: s for n, s in of.items() if n not in head}
    assert set(head.values()) == {1.0}
    assert max(body.values()) < 1.0
    stem = "conv1|bn1" if "resnet" in backbone else "stem"
    first = {n for n, s in body.items() if s == min(body.values())}
    assert first == {n for n in body if any(f"model.{part}." in n for part in stem.split("|"))}


@pytest.mark.parametrize("backbone", ["focalnet_tiny_srf", "cloformer_xxs", "timm:resnet18"])
def test_frozen_stages_get_no_gradient_and_keep_their_norms(backbone: str) -> None:
    detector = small_detector("faster_rcnn", backbone)
    held = freeze(detector, 2)
    for module in held:
        module.eval()
    stages = (
        ("conv1.", "bn1.", "layer1.", "layer2.")
        if "resnet" in backbone
        else ("stem.", "stages.0.", "stages.1.")
    )
    before = {name: value.clone() for name, value in detector.pyramid().model.named_buffers()}
    torch.stack(
        list(losses(detector, pictures((64, 64)), [objects(64, 64)]).values())
    ).sum().backward()
    for name, parameter in detector.pyramid().model.named_parameters():
        assert (parameter.grad is None) == name.startswith(stages), name
    for name, value in detector.pyramid().model.named_buffers():
        assert torch.equal(value, before[name]) == name.startswith(stages), name
    inside = {id(p) for p in detector.pyramid().model.parameters()}
    assert all(p.grad is not None for p in detector.parameters() if id(p) not in inside)


@pytest.mark.parametrize("head", HEADS)
def test_boxes_keep_single_precision_under_autocast(head: str) -> None:
    options: dict[str, Any] = {
        "score_thresh" if head in ("retinanet", "fcos") else "box_score_thresh": 0.0
    }
    detector = small_detector(head, **options).eval()
    size = (64, 600)
    with torch.autocast("cpu", torch.bfloat16):
        parts = losses(detector, pictures(size), [objects(*size)])
        with torch.no_grad():
            (found,) = detector.find(pictures(size))
    assert all(part.dtype == torch.float32 and part.isfinite() for part in parts.values())
    assert found["boxes"].dtype == torch.float32
    far = found["boxes"][:, 2]
    far = far[(far > 300) & (far < 600)]
    assert len(far)
    assert (far != far.bfloat16()).any()


def test_a_mask_head_asks_for_masks() -> None:
    target = objects(64, 64)
    del target["masks"]
    with pytest.raises(FovealError, match="learns from masks"):
        small_detector("mask_rcnn")(pictures((64, 64)), [target])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "faster_rcn"}, "Did you mean 'faster_rcnn'"),
        ({"num_classes": 0}, "1 or more"),
        ({"box_score_tresh": 0.1}, "Did you mean 'box_score_thresh'"),
        ({"min_size": 800}, "no option 'min_size'"),
        ({"head": "cascade_rcnn", "box_fg_iou_thresh": 0.1}, "no option 'box_fg_iou_thresh'"),
        ({"head": "fcos", "fpn_channels": 24}, "multiple of 32"),
        ({"head": "cascade_rcnn", "iou_thresholds": (0.5, 0.6)}, "a value a stage"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, object], message: str) -> None:
    given = {"head": "faster_rcnn", "num_classes": 3, **arguments}
    with pytest.raises(OptionError, match=message):
        create_detector(
            backbone="focalnet_tiny_srf",
            backbone_options=SHALLOW["focalnet_tiny_srf"],
            **given,  # pyright: ignore[reportArgumentType]
        )


@pytest.mark.parametrize(
    ("coarser", "indices", "strides"),
    [
        ("none", (0, 1, 2, 3), [4, 8, 16, 32]),
        ("pool", (0, 1, 2, 3), [4, 8, 16, 32, 64]),
        ("p6p7", (1, 2, 3), [8, 16, 32, 64, 128]),
    ],
)
def test_levels_have_the_strides_they_say(
    coarser: str, indices: tuple[int, ...], strides: list[int]
) -> None:
    pyramid = small_detector("fcos", out_indices=indices).pyramid()
    levels = FeaturePyramid(pyramid, 8, coarser)  # pyright: ignore[reportArgumentType]
    maps = levels(torch.randn(1, 3, 128, 256))
    assert levels.strides == strides
    shapes = [tuple(m.shape) for m in maps.values()]
    assert shapes == [(1, 8, 128 // stride, 256 // stride) for stride in strides]


def test_maps_of_one_scale_are_refused() -> None:
    pyramid = Pyramid("focalnet_tiny_iso", depths=(4,), embed_dim=32)
    with pytest.raises(OptionError, match="all of this backbone's have 16 pixels a cell"):
        FeaturePyramid(pyramid, 8)


def test_options_of_torchvision_reach_it() -> None:
    detector = small_detector("faster_rcnn", box_detections_per_img=7, rpn_nms_thresh=0.5)
    assert detector.network.roi_heads.detections_per_img == 7
    assert detector.network.rpn.nms_thresh == 0.5
    found = detector.eval()(pictures((64, 64)))[0]
    assert len(found["boxes"]) == 7
