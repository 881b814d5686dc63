"""transformers' detectors on pyramids: steps, targets, padding, and what comes out."""

import copy
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor
from torchvision.io import ImageReadMode, read_image
from torchvision.transforms.v2 import functional as transforms

from foveal.errors import OptionError
from foveal.models.pyramid import Pyramid
from foveal.tasks.detection.contract import Detector, Target
from foveal.tasks.detection.detr import DETR_HEADS
from tests.models.families import SHALLOW, SMALLEST, stir

pytest.importorskip("transformers")

HEADS = sorted(DETR_HEADS)
SMALL = {"num_queries": 20, "encoder_layers": 2, "decoder_layers": 2, "d_model": 32}
SIZES = ((64, 96), (80, 70))


def detector(head: str, backbone: str = "cloformer_xxs", classes: int = 3, **options: Any) -> Any:
    """A small detector, the same at every call."""
    torch.manual_seed(0)
    pyramid = Pyramid(backbone, **SHALLOW[backbone])
    stir(pyramid)
    return DETR_HEADS[head](pyramid, classes, **{**SMALL, **options})


def images(sizes: Sequence[tuple[int, int]] = SIZES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


def targets(sizes: Sequence[tuple[int, int]] = SIZES, classes: int = 3) -> list[Target]:
    """Three objects in every image."""
    corners = torch.tensor([[0.1, 0.2, 0.4, 0.7], [0.5, 0.1, 0.9, 0.3], [0.3, 0.6, 0.8, 0.95]])
    labels = torch.arange(3) % classes
    return [
        {"boxes": corners * torch.tensor([width, height, width, height]), "labels": labels}
        for height, width in sizes
    ]


def no_objects() -> Target:
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}


def summed(parts: dict[str, Tensor]) -> Tensor:
    """What is minimised."""
    return torch.stack([*parts.values()]).sum()


def step(model: Any, size: tuple[int, int]) -> None:
    """A training step reaches every parameter of the backbone, with finite gradients."""
    sizes = [size, (size[0] - 10, size[1] - 6)]
    model.train().zero_grad()
    total = summed(model(images(sizes), targets(sizes)))
    total.backward()
    assert total.isfinite()
    for name, parameter in model.pyramid().named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(p.grad.abs().sum() > 0 for p in model.pyramid().model.stem.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_a_step_reaches_the_whole_backbone_at_two_sizes(head: str) -> None:
    model = detector(head)
    for size in ((64, 96), (90, 75)):
        step(model, size)


@pytest.mark.parametrize("backbone", SMALLEST)
def test_every_family_carries_a_head(backbone: str) -> None:
    step(detector("deformable_detr", backbone), (64, 96))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", (*SMALLEST, "timm:resnet18"))
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("levels", (4, 5))
def test_all_heads_scales_and_families(head: str, backbone: str, levels: int) -> None:
    torch.manual_seed(0)
    pyramid = Pyramid(backbone, **SHALLOW.get(backbone, {}))
    model: Any = DETR_HEADS[head](pyramid, 3, **SMALL, num_feature_levels=levels)
    for size in ((96, 128), (150, 135)):
        model.train().zero_grad()
        total = summed(model(images([size, size]), targets([size, size])))
        total.backward()
        assert total.isfinite()
        grads = [p.grad for p in model.pyramid().parameters()]
        assert all(grad is not None and grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("levels", (3, 4, 5))
def test_the_head_looks_at_as_many_scales_as_it_is_told(head: str, levels: int) -> None:
    if (head, levels) == ("deformable_detr", 3):
        with pytest.raises(OptionError, match="one of 4, 5, got 3"):
            detector(head, num_feature_levels=levels)
        return
    model = detector(head, num_feature_levels=levels)
    assert model.network.config.num_feature_levels == len(model.strides) == levels
    assert model.strides[0] == (4 if levels == 5 else 8)
    assert len(model.pyramid().norms) == len(model.pyramid().channels) == max(3, levels - 1)
    assert len(model.eval()(images())) == 2


@pytest.mark.parametrize("head", HEADS)
def test_the_losses_are_those_of_the_network(head: str) -> None:
    """But for the proposals of Deformable DETR, which transformers does not train."""
    model = detector(head).train()
    pixels, mask = model.batch(images())
    seen: dict[str, Any] = {}
    hook = model.network.register_forward_pre_hook(
        lambda _, __, k: seen.update(k), with_kwargs=True
    )
    torch.manual_seed(3)
    parts = model(images(), targets())
    hook.remove()
    torch.manual_seed(3)
    whole = model.network(pixels, pixel_mask=mask, labels=seen["labels"]).loss
    own = {name: value for name, value in parts.items() if not name.endswith("_enc")}
    assert len(parts) - len(own) == (3 if head == "deformable_detr" else 0)
    torch.testing.assert_close(summed(own), whole)


@pytest.mark.parametrize("head", HEADS)
def test_boxes_are_shares_of_what_the_head_calls_an_image(head: str) -> None:
    """Of the image where there are masks, of the padded one where there are none."""
    model = detector(head)
    seen: dict[str, Any] = {}
    model.network.register_forward_pre_hook(lambda _, __, k: seen.update(k), with_kwargs=True)
    model(images(), targets())
    height, width = SIZES[1] if head == "deformable_detr" else (96, 96)
    boxes = torch.tensor([[0.25, 0.45, 0.3, 0.5], [0.7, 0.2, 0.4, 0.2], [0.55, 0.775, 0.5, 0.35]])
    scale = torch.tensor([70 / width, 80 / height])
    torch.testing.assert_close(seen["labels"][1]["boxes"], boxes * scale.repeat(2))
    assert seen["labels"][1]["class_labels"].tolist() == [0, 1, 2]


def test_the_first_stage_learns_to_tell_objects_from_ground() -> None:
    model = detector("deformable_detr")
    parts = model(images(), targets())
    summed({k: v for k, v in parts.items() if k.endswith("_enc")}).backward()
    assert model.network.class_embed[-1].weight.grad.abs().sum() > 0
    assert model.network.class_embed[0].weight.grad is None


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("classes", (1, 3))
def test_images_without_objects_train(head: str, classes: int) -> None:
    model = detector(head, classes=classes)
    for batch in ([no_objects(), no_objects()], [targets(classes=classes)[0], no_objects()]):
        model.zero_grad()
        total = summed(model(images(), batch))
        total.backward()
        assert total.isfinite()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("head", HEADS)
def test_crowds_are_left_out(head: str) -> None:
    model = detector(head).train()
    crowded = targets()
    crowded[0]["crowd"] = torch.tensor([False, True, False])
    without = targets()
    keep = torch.tensor([True, False, True])
    without[0] = {"boxes": without[0]["boxes"][keep], "labels": without[0]["labels"][keep]}
    totals = []
    for batch in (crowded, without, targets()):
        torch.manual_seed(0)
        totals.append(summed(model(images(), batch)).item())
    assert totals[0] == totals[1] != totals[2]


@pytest.mark.parametrize("head", HEADS)
def test_what_is_found_is_what_transformers_finds(head: str) -> None:
    import transformers

    processors = {"deformable_detr": transformers.DeformableDetrImageProcessor}
    processor = processors.get(head, transformers.RTDetrImageProcessor)()
    model = detector(head).eval()
    stir(model.network)
    pair = images([(64, 96), (64, 96)])
    pixels, mask = model.batch(pair)
    with torch.no_grad():
        found = model(pair)
        outputs = model.network(pixels, pixel_mask=mask)
    queries: dict[str, Any] = {"top_k": 20} if head == "deformable_detr" else {}
    expected = processor.post_process_object_detection(outputs, 0.0, [(64, 96)] * 2, **queries)
    for ours, theirs in zip(found, expected, strict=True):
        assert set(ours) == set(theirs) == {"boxes", "labels", "scores"}
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert len(ours["scores"]) == SMALL["num_queries"]
        assert ours["scores"].diff().le(0).all()


@pytest.mark.parametrize("head", HEADS)
def test_company_does_not_change_what_is_found(head: str) -> None:
    model = detector(head).eval()
    small, large = images([(64, 70), (96, 128)])
    with torch.no_grad():
        alone, together = model([small])[0], model([large, small, large])[1]
    assert torch.equal(alone["labels"], together["labels"])
    for key in ("boxes", "scores"):
        torch.testing.assert_close(alone[key], together[key], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_what_the_backbone_makes_of_padding_is_not_looked_at(head: str) -> None:
    model = detector(head).eval()
    pixels, mask = model.batch(images([(64, 64), (96, 128)]))

    def disturb(_: Any, __: Any, maps: list[Tensor]) -> list[Tensor]:
        for tapped in maps:
            cells = 64 * tapped.shape[-1] // 128
            tapped[0, :, :, cells:] += 5
        return maps

    with torch.no_grad():
        calm = model.network(pixels, pixel_mask=mask)
        model.pyramid().register_forward_hook(disturb)
        disturbed = model.network(pixels, pixel_mask=mask)
        unmasked = model.network(pixels)
    assert torch.equal(calm.logits, disturbed.logits)
    assert torch.equal(calm.pred_boxes, disturbed.pred_boxes)
    assert not torch.equal(calm.logits, unmasked.logits)


def test_small_images_get_room_for_all_queries() -> None:
    for head in HEADS:
        model = detector(head, num_queries=100).eval()
        assert len(model(images([(20, 40)]))[0]["scores"]) == 100


@pytest.mark.parametrize("head", HEADS)
def test_weights_load_into_a_new_detector_and_copies_stand_alone(head: str) -> None:
    first = detector(head).eval()
    stir(first.network)
    state = first.state_dict()
    assert any(".model.stages.0." in key for key in state)
    torch.manual_seed(7)
    second: Any = DETR_HEADS[head](
        Pyramid("cloformer_xxs", **SHALLOW["cloformer_xxs"]), 3, **SMALL
    ).eval()
    second.load_state_dict(state)
    with torch.no_grad():
        expected = first(images())
        for other in (second, copy.deepcopy(first)):
            for ours, theirs in zip(expected, other(images()), strict=True):
                assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_backbone_keeps_its_weights_while_the_head_is_drawn() -> None:
    pyramid = Pyramid("efficientmod_xxs", **SHALLOW["efficientmod_xxs"])
    before = {name: value.clone() for name, value in pyramid.model.state_dict().items()}
    for head in HEADS:
        DETR_HEADS[head](pyramid, 3, **SMALL)
    assert all(torch.equal(value, before[k]) for k, value in pyramid.model.state_dict().items())


@pytest.mark.parametrize("head", HEADS)
def test_layers_near_the_image_learn_more_slowly(head: str) -> None:
    model = detector(head)
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, layer_decay=0.75)
    scales = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    by_name = {name: scales[id(p)] for name, p in model.named_parameters() if id(p) in scales}
    stem = [scale for name, scale in by_name.items() if ".model.stem." in name]
    last = [scale for name, scale in by_name.items() if ".model.stages.3." in name]
    head_only = [scale for name, scale in by_name.items() if ".backbone." not in name]
    assert max(stem) < min(last) <= max(last) < 1
    assert set(head_only) == {1}


@pytest.mark.parametrize("head", HEADS)
def test_low_precision_reaches_the_backbone_alone(head: str) -> None:
    """The head's positions need float32."""
    model = detector(head)
    with torch.autocast("cpu", torch.bfloat16):
        total = summed(model(images(), targets()))
        found = model.eval()(images())
        exact = model.pyramid()(images()[0][None])[-1]
    total.backward()
    assert total.dtype == torch.float32
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.pyramid().parameters())
    assert found[0]["boxes"].dtype == torch.float32
    assert model.network.model.backbone.precision == torch.bfloat16
    assert exact.isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="multiple of 32, got 48"):
        detector("d_fine", d_model=48)
    with pytest.raises(OptionError, match="halve from one to the next"):
        DETR_HEADS["rtdetr_v2"](Pyramid("focalnet_tiny_iso", depths=(4,), embed_dim=32), 3, **SMALL)
    with pytest.raises(OptionError, match="looks at 4 maps"):
        pyramid = Pyramid("cloformer_xxs", out_indices=(1, 2, 3), **SHALLOW["cloformer_xxs"])
        DETR_HEADS["deformable_detr"](pyramid, 3, num_feature_levels=5)
    with pytest.raises(TypeError, match="num_querys"):
        detector("rtdetr_v2", num_querys=3)


def photographs(folder: Path, count: int) -> tuple[list[Tensor], list[Target]]:
    """Images of 256 × 256 with at most 12 boxes each, and these."""
    listing = json.loads((folder / "train.json").read_text())
    classes = sorted(category["id"] for category in listing["categories"])
    pictures, wanted = [], []
    for entry in listing["images"]:
        own = [a for a in listing["annotations"] if a["image_id"] == entry["id"]]
        if len(pictures) == count or not 0 < len(own) <= 12:
            continue
        picture = read_image(str(folder / "images" / entry["file_name"]), ImageReadMode.RGB) / 255
        x, y = 256 / entry["width"], 256 / entry["height"]
        boxes = torch.tensor([a["bbox"] for a in own])
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([classes.index(a["category_id"]) for a in own])
        picture = transforms.resize(picture, [256, 256], antialias=True)
        pictures.append(transforms.normalize(picture, [0.5] * 3, [0.25] * 3))
        wanted.append({"boxes": boxes * torch.tensor([x, y, x, y]), "labels": labels})
    return pictures, wanted


def map50(model: Detector, pictures: list[Tensor], wanted: list[Target]) -> float:
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(iou_thresholds=[0.5], backend="faster_coco_eval")
    with torch.no_grad():
        found: Any = model.eval()(pictures)
    truth: Any = wanted
    metric.update(found, truth)
    return metric.compute()["map_50"].item()


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_few_photographs_are_learned_by_heart(head: str) -> None:
    if "FOVEAL_BCCD" not in os.environ:
        pytest.skip("FOVEAL_BCCD names no folder with train.json and images")
    pictures, wanted = photographs(Path(os.environ["FOVEAL_BCCD"]), 8)
    torch.manual_seed(0)
    pyramid = Pyramid("efficientmod_xxs", **SHALLOW["efficientmod_xxs"])
    options = {"num_queries": 50, "encoder_layers": 2, "decoder_layers": 2, "d_model": 64}
    model = DETR_HEADS[head](pyramid, 3, **options)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=500)
    for _ in range(500):
        optimizer.zero_grad()
        two: list[int] = torch.randperm(8)[:2].tolist()
        parts: Any = model.train()([pictures[i] for i in two], [wanted[i] for i in two])
        summed(parts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
    assert map50(model, pictures, wanted) >= 0.5


@pytest.mark.parametrize("processes", (1, 2))
def test_parameters_without_use_get_gradients_where_several_processes_train(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DDP would wait for them; a process alone has the gradients that the losses give."""

    def gradients(count: int) -> dict[str, Any]:
        monkeypatch.setattr("foveal.models.pyramid._num_processes", lambda: count)
        model = detector("d_fine").train()
        model.pyramid().model.stem.requires_grad_(False)
        torch.manual_seed(0)
        summed(model(images(), [no_objects(), no_objects()])).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}

    plain, got = gradients(1), gradients(processes)
    idle = [name for name, grad in plain.items() if grad is None]
    assert idle == ["network.model.denoising_class_embed.weight"]
    for name, grad in got.items():
        if name in idle:
            assert grad is None if processes == 1 else grad is not None and not grad.any()
        else:
            assert torch.equal(grad, plain[name]), name
