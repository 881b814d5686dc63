"""transformers' mask transformers on pyramids: steps, pixels that do not count, and scores."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, read_image
from torchvision.transforms.v2 import functional as transforms

from foveal.errors import OptionError
from foveal.models.pyramid import Pyramid
from foveal.tasks.segmentation.mask_transformers import MASK_TRANSFORMER_HEADS
from tests.models.families import SHALLOW, SMALLEST, stir

pytest.importorskip("transformers")

HEADS = sorted(MASK_TRANSFORMER_HEADS)
SMALL: dict[str, dict[str, Any]] = {
    "mask2former": {"encoder_layers": 2, "num_points": 256},
    "maskformer": {},
}
SHARED = {"num_queries": 20, "decoder_layers": 2, "d_model": 32}


def segmenter(head: str, backbone: str = "cloformer_xxs", **options: Any) -> Any:
    """A small segmenter of five classes, the same at every call."""
    torch.manual_seed(0)
    pyramid = Pyramid(backbone, **SHALLOW.get(backbone, {}))
    stir(pyramid)
    return MASK_TRANSFORMER_HEADS[head](pyramid, 5, **{**SHARED, **SMALL[head], **options})


def batch(height: int = 70, width: int = 90) -> tuple[Tensor, Tensor]:
    """Two images, with classes in blocks and pixels that do not count."""
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(2, 3, height, width, generator=generator)
    blocks = torch.randint(0, 5, (2, 1, 4, 4), generator=generator).float()
    labels = F.interpolate(blocks, (height, width))[:, 0].long()
    labels[:, :10] = 255
    return pictures, labels


def summed(parts: dict[str, Tensor]) -> Tensor:
    """What is minimised."""
    return torch.stack([*parts.values()]).sum()


def step(model: Any, height: int, width: int) -> None:
    """A training step reaches every parameter of the backbone, with finite gradients."""
    model.train().zero_grad()
    total = summed(model(*batch(height, width)))
    total.backward()
    assert total.isfinite()
    for name, parameter in model.pyramid().named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert max(p.grad.abs().max() for p in model.pyramid().parameters()) > 0


@pytest.mark.parametrize("head", HEADS)
def test_a_step_reaches_the_whole_backbone_at_two_sizes(head: str) -> None:
    model = segmenter(head)
    for size in ((64, 96), (90, 75)):
        step(model, *size)


@pytest.mark.parametrize("backbone", SMALLEST)
def test_every_family_carries_a_head(backbone: str) -> None:
    step(segmenter("mask2former", backbone), 64, 96)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", (*SMALLEST, "timm:resnet18"))
@pytest.mark.parametrize("head", HEADS)
def test_all_heads_and_families(head: str, backbone: str) -> None:
    model = segmenter(head, backbone)
    for size in ((96, 128), (150, 135)):
        step(model, *size)


@pytest.mark.parametrize("head", HEADS)
def test_the_losses_are_those_of_the_network(head: str) -> None:
    model = segmenter(head).train()
    pictures, labels = batch(64, 96)
    masks, classes = [], []
    for one in labels:
        present = one[one != 255].unique()
        masks.append((one == present[:, None, None]).float().masked_fill(one == 255, -1))
        classes.append(present)
    torch.manual_seed(3)
    parts = model(pictures, labels)
    torch.manual_seed(3)
    whole = model.network(pictures, mask_labels=masks, class_labels=classes).loss
    torch.testing.assert_close(summed(parts), whole)
    layers = 3 if head == "mask2former" else 2
    assert len(parts) == 3 * layers
    assert {"loss_mask", "loss_dice", "loss_cross_entropy"} <= set(parts)


@pytest.mark.parametrize("head", HEADS)
def test_without_such_pixels_the_masks_cost_what_transformers_says(head: str) -> None:
    criterion = segmenter(head).network.criterion
    logits = torch.randn(2, 20, 16, 24, generator=torch.Generator().manual_seed(0))
    masks = [torch.ones(1, 64, 96), torch.zeros(2, 64, 96)]
    masks[1][0, :30] = masks[1][1, 30:] = 1
    pairs = [(torch.tensor([4]), torch.tensor([0])), (torch.tensor([1, 7]), torch.tensor([1, 0]))]
    torch.manual_seed(1)
    ours = criterion.loss_masks(logits, masks, pairs, 3)
    torch.manual_seed(1)
    theirs = type(criterion).__mro__[1].loss_masks(criterion, logits, masks, pairs, 3)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name])


def test_no_bias_has_the_gradient_of_all_of_maskformer() -> None:
    """Queries start as zeros, whose norm has a gradient beyond bounds."""
    model = segmenter("maskformer")
    summed(model(*batch())).backward()
    attention = model.network.model.transformer_module.decoder.layers[0].self_attn
    masks = model.network.model.pixel_level_module.decoder.mask_projection
    assert attention.o_proj.bias.grad.norm() < masks.weight.grad.norm()


@pytest.mark.parametrize("head", HEADS)
def test_pixels_without_a_label_teach_nothing(head: str) -> None:
    """The left half of the masks gets a gradient only where its pixels have a label."""
    criterion = segmenter(head).network.criterion
    shapes = torch.zeros(1, 64, 64)
    shapes[0, :32] = 1
    kinds = [torch.tensor([2])]
    for unlabelled in (0, 32):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(1, 20, 16, 16, generator=generator).requires_grad_()
        masks = shapes.clone()
        masks[:, :, :unlabelled] = -1
        summed(criterion(logits, torch.zeros(1, 20, 6), [masks], kinds)).backward()
        assert logits.grad is not None
        left, right = logits.grad[..., :7].abs().sum(), logits.grad[..., 9:].abs().sum()
        assert right > 0
        assert (left == 0) == (unlabelled > 0)


@pytest.mark.parametrize("head", HEADS)
def test_images_without_labels_train(head: str) -> None:
    model = segmenter(head)
    pictures, labels = batch()
    for without in (slice(0, 1), slice(0, 2)):
        model.zero_grad()
        labels[without] = 255
        total = summed(model(pictures, labels))
        total.backward()
        assert total.isfinite()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_what_transformers_puts_together(head: str) -> None:
    """Mask2Former's processor looks at 384 pixels a side, whatever the image's."""
    import transformers

    names = {"mask2former": "Mask2FormerImageProcessor", "maskformer": "MaskFormerImageProcessor"}
    processor = getattr(transformers, names[head])()
    model = segmenter(head).eval()
    size = (384, 384) if head == "mask2former" else (64, 96)
    pictures = batch(*size)[0][:1]
    with torch.no_grad():
        scores = model(pictures)
        outputs = model.network(pictures)
    expected = processor.post_process_semantic_segmentation(
        outputs, [size], return_segmentation_scores=True
    )[0]
    assert scores.shape == (1, 5, *size)
    torch.testing.assert_close(scores[0].exp(), expected["segmentation_scores"])
    assert torch.equal(scores[0].argmax(0), expected["segmentation"])


@pytest.mark.parametrize("head", HEADS)
def test_images_of_any_size_get_scores_of_theirs(head: str) -> None:
    """The padding is cut off: scores are those of the padded image."""
    model = segmenter(head).eval()
    pictures = batch(70, 90)[0]
    with torch.no_grad():
        scores, whole = model(pictures), model(F.pad(pictures, (0, 6, 0, 26)))
    assert scores.shape == (2, 5, 70, 90)
    assert torch.equal(scores, whole[..., :70, :90])
    assert scores.isfinite().all()


@pytest.mark.parametrize("head", HEADS)
def test_weights_load_into_a_new_segmenter_and_copies_stand_alone(head: str) -> None:
    first = segmenter(head).eval()
    stir(first.network)
    state = first.state_dict()
    assert any(".model.stages.0." in key for key in state)
    second = segmenter(head)
    stir(second.network)
    second.eval().load_state_dict(state)
    third = copy.deepcopy(first)
    with torch.no_grad():
        assert torch.equal(first(batch()[0]), second(batch()[0]))
        assert torch.equal(first(batch()[0]), third(batch()[0]))


@pytest.mark.parametrize("head", HEADS)
def test_layers_near_the_image_learn_more_slowly(head: str) -> None:
    model = segmenter(head)
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, layer_decay=0.75)
    scales = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    by_name = {name: scales[id(p)] for name, p in model.named_parameters()}
    stem = [scale for name, scale in by_name.items() if ".model.stem." in name]
    last = [scale for name, scale in by_name.items() if ".model.stages.3." in name]
    head_only = [scale for name, scale in by_name.items() if ".encoder.model." not in name]
    assert max(stem) < min(last) <= max(last) < 1
    assert set(head_only) == {1}


@pytest.mark.parametrize("head", HEADS)
def test_low_precision_reaches_the_backbone_alone(head: str) -> None:
    model = segmenter(head)
    with torch.autocast("cpu", torch.bfloat16):
        total = summed(model(*batch()))
        scores = model.eval()(batch()[0])
    total.backward()
    assert total.dtype == scores.dtype == torch.float32
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.pyramid().parameters())
    assert model.network.model.pixel_level_module.encoder.precision == torch.bfloat16


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(OptionError, match="multiple of 32, got 20"):
        segmenter("maskformer", d_model=20)
    with pytest.raises(OptionError, match="halve from one to the next"):
        pyramid = Pyramid("focalnet_tiny_iso", depths=(4,), embed_dim=32)
        MASK_TRANSFORMER_HEADS["mask2former"](pyramid, 5, **SHARED)


def photographs(folder: Path, count: int) -> tuple[Tensor, Tensor]:
    """Images of 256 × 256 and the classes of their pixels, 255 where there is none."""
    ignored = json.loads((folder / "classes.json").read_text())["ignore_index"]
    pictures, classes = [], []
    for path in sorted((folder / "images/train").iterdir())[:count]:
        label = folder / "labels/train" / f"{path.stem}.png"
        picture = read_image(str(path), ImageReadMode.RGB) / 255
        picture = transforms.resize(picture, [256, 256], antialias=True)
        pictures.append(transforms.normalize(picture, [0.5] * 3, [0.25] * 3))
        classes.append(F.interpolate(read_image(str(label))[None, :1].float(), (256, 256))[0, 0])
    labels = torch.stack(classes).long()
    return torch.stack(pictures), labels.masked_fill(labels == ignored, 255)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_few_photographs_are_learned_by_heart(head: str) -> None:
    if "FOVEAL_CAMVID" not in os.environ:
        pytest.skip("FOVEAL_CAMVID names no folder with images/train and labels/train")
    pictures, labels = photographs(Path(os.environ["FOVEAL_CAMVID"]), 8)
    torch.manual_seed(0)
    options = {"num_queries": 50, "decoder_layers": 2, "d_model": 64}
    own = {"encoder_layers": 2, "num_points": 4096} if head == "mask2former" else {}
    pyramid = Pyramid("efficientmod_xxs", **SHALLOW["efficientmod_xxs"])
    model: Any = MASK_TRANSFORMER_HEADS[head](pyramid, 11, **options, **own)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=800)
    for _ in range(800):
        optimizer.zero_grad()
        two = torch.randperm(8)[:2]
        summed(model.train()(pictures[two], labels[two])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        chosen = model.eval()(pictures).argmax(1)
    assert (chosen == labels)[labels != 255].float().mean() >= 0.95
