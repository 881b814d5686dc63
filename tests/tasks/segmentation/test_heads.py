"""Every head on every family: training steps, scores, saving, layers, wrong options."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn import functional as F

from foveal.errors import MissingExtraError, OptionError
from foveal.models.freezing import freeze
from foveal.models.pyramid import Pyramid
from foveal.tasks.segmentation.heads import HEADS, create_segmenter
from foveal.tasks.segmentation.smp_heads import SMP_HEADS, SmpSegmenter
from foveal.train.checkpoint import write_weights
from tests.models.families import SMALLEST
from tests.models.small_models import SHALLOW as SHALLOW_FOCALNET
from tests.models.small_models import small_focalnet
from tests.tasks.segmentation.small_segmenters import batch, small_segmenter

# Of the second, 32 divides neither side.
SIZES = [(64, 96), (72, 50)]


def has_finite_gradients(head: str, backbone: str, size: tuple[int, int]) -> None:
    """A step's gradients, in every parameter; in those of the backbone not all of them zero."""
    segmenter = small_segmenter(head, backbone).train()
    losses = segmenter(*batch(*size))
    assert isinstance(losses, dict)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in segmenter.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    for name, parameter in segmenter.pyramid().named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), f"{name} learns nothing"


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("head", SMP_HEADS)
def test_a_step_reaches_the_whole_backbone(head: str, size: tuple[int, int]):
    has_finite_gradients(head, "focalnet_tiny_srf", size)


@pytest.mark.parametrize("backbone", SMALLEST[1:])
def test_a_step_reaches_the_whole_backbone_of_every_family(backbone: str):
    has_finite_gradients("upernet", backbone, SIZES[1])


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("backbone", SMALLEST)
@pytest.mark.parametrize("head", SMP_HEADS)
def test_a_step_reaches_everything_everywhere(head: str, backbone: str, size: tuple[int, int]):
    has_finite_gradients(head, backbone, size)


@pytest.mark.parametrize(("head", "kind"), [("upernet", smp.UPerNet), ("semantic_fpn", smp.FPN)])
def test_the_network_is_smps_and_equals_it_where_32_divides_the_sides(
    head: str, kind: type[nn.Module]
):
    segmenter = small_segmenter(head).eval()
    assert isinstance(segmenter, SmpSegmenter)
    assert type(segmenter.network) is kind
    images = batch(64, 96)[0]
    with torch.inference_mode():
        scores = segmenter(images)
        assert isinstance(scores, torch.Tensor)
        assert scores.shape == (2, 5, 64, 96)
        assert torch.equal(scores, segmenter.network(images))


@pytest.mark.parametrize("head", SMP_HEADS)
def test_padding_is_cut_off_again(head: str):
    segmenter = small_segmenter(head).eval()
    images = batch(64, 96)[0]
    images[..., 50:, :] = 0
    images[..., :, 70:] = 0
    with torch.inference_mode():
        small, large = segmenter(images[..., :50, :70]), segmenter(images)
    assert isinstance(small, torch.Tensor)
    assert isinstance(large, torch.Tensor)
    assert torch.equal(small, large[..., :50, :70])


def test_losses_are_the_cross_entropies_of_what_counts():
    segmenter = small_segmenter("upernet", auxiliary_dropout=0.0).train()
    images, labels = batch(72, 50)
    losses = segmenter(images, labels)
    assert isinstance(losses, dict)
    scores = segmenter(images)
    assert isinstance(scores, torch.Tensor)
    counts = labels != 255
    expected = F.cross_entropy(scores.movedim(1, -1)[counts], labels[counts])
    torch.testing.assert_close(losses["pixels"], expected)
    light = small_segmenter("upernet", auxiliary_dropout=0.0, auxiliary_weight=0.1).train()
    lighter = light(images, labels)
    assert isinstance(lighter, dict)
    torch.testing.assert_close(lighter["auxiliary"], losses["auxiliary"] / 4)


def test_the_auxiliary_head_can_be_left_out():
    losses = small_segmenter("upernet", auxiliary_weight=0).train()(*batch(64, 64))
    assert set(losses) == {"pixels"}


def test_images_without_a_pixel_that_counts_have_no_loss():
    images, labels = batch(64, 64)
    losses = small_segmenter("upernet").train()(images, torch.full_like(labels, 255))
    assert isinstance(losses, dict)
    assert [loss.item() for loss in losses.values()] == [0, 0]


@pytest.mark.parametrize("head", SMP_HEADS)
def test_saved_weights_give_the_same_scores(head: str, tmp_path: Path):
    segmenter = small_segmenter(head).train()
    # A step in training mode, so that the statistics of the norms are not those at the start.
    segmenter(*batch(64, 64))
    write_weights(tmp_path / "weights.safetensors", segmenter.state_dict(), {})
    other = small_segmenter(head)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    images = batch(72, 50)[0]
    with torch.inference_mode():
        assert torch.equal(other.eval()(images), segmenter.eval()(images))


def test_a_classifiers_checkpoint_is_loaded_into_the_backbone(tmp_path: Path):
    classifier = small_focalnet(seed=3)
    write_weights(tmp_path / "classifier.safetensors", classifier.state_dict(), {})
    path = str(tmp_path / "classifier.safetensors")
    segmenter = create_segmenter(
        "semantic_fpn", "focalnet_tiny_srf", 5, checkpoint=path, backbone_options=SHALLOW_FOCALNET
    )
    loaded, saved = segmenter.pyramid().model.state_dict(), classifier.state_dict()
    assert loaded
    assert all(torch.equal(value, saved[name]) for name, value in loaded.items())


@pytest.mark.parametrize("head", SMP_HEADS)
def test_layer_decay_sees_the_backbones_layers_and_takes_the_rest_for_the_head(head: str):
    segmenter = small_segmenter(head)
    groups = create_optimizer_v2(segmenter, "adamw", lr=1.0, layer_decay=0.5).param_groups
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    of = {name: scales[id(p)] for name, p in segmenter.named_parameters()}
    prefix = "network.encoder.pyramid.model."
    stages = [
        {scale for name, scale in of.items() if name.startswith(f"{prefix}stages.{i}.blocks")}
        for i in range(4)
    ]
    assert all(len(stage) == 1 for stage in stages)
    assert [max(a) < min(b) for a, b in pairwise(stages)] == [True] * 3
    assert max(of[f"{prefix}stem.{n}"] for n in _stem(segmenter, f"{prefix}stem.")) < min(stages[0])
    assert {scale for name, scale in of.items() if not name.startswith(prefix)} == {1.0}


def _stem(segmenter: nn.Module, prefix: str) -> list[str]:
    names = [name for name, _ in segmenter.named_parameters()]
    return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def test_stages_can_be_frozen():
    segmenter = small_segmenter("upernet")
    freeze(segmenter, frozen_stages=2)
    trained = {name for name, p in segmenter.named_parameters() if p.requires_grad}
    prefix = "network.encoder.pyramid.model."
    assert not any(name.startswith((f"{prefix}stem", f"{prefix}stages.1")) for name in trained)
    assert any(name.startswith(f"{prefix}stages.2") for name in trained)
    assert any(name.startswith("network.decoder") for name in trained)


def test_wrong_names_are_answered_with_the_right_ones():
    with pytest.raises(OptionError, match="'upernet'"):
        create_segmenter("uppernet", "focalnet_tiny_srf", 5)
    with pytest.raises(OptionError, match="'auxiliary_weight'"):
        create_segmenter("upernet", "focalnet_tiny_srf", 5, auxilary_weight=1)
    with pytest.raises(OptionError, match="one of the 300 classes"):
        create_segmenter("upernet", "focalnet_tiny_srf", 300)
    with pytest.raises(OptionError, match="multiple of 32"):
        small_segmenter("semantic_fpn", channels=48)
    assert set(SMP_HEADS) <= set(HEADS)


def test_a_backbone_of_another_shape_is_refused():
    pyramid = Pyramid("focalnet_tiny_iso", out_indices=(0, 1, 2), depths=(3,), embed_dim=32)
    with pytest.raises(OptionError, match="four stages"):
        SMP_HEADS["upernet"](pyramid, 5)


def test_a_backbone_of_timm_works():
    segmenter = create_segmenter("upernet", "timm:resnet18", 5, channels=16).eval()
    with torch.inference_mode():
        scores = segmenter(batch(64, 64)[0])
    assert isinstance(scores, torch.Tensor)
    assert scores.shape == (2, 5, 64, 64)


def test_without_smp_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(MissingExtraError, match=r"foveal\[dense\]"):
        small_segmenter("semantic_fpn")


def test_half_precision_gives_finite_losses_and_gradients():
    segmenter = small_segmenter("upernet").train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = segmenter(*batch(64, 64))
    assert isinstance(losses, dict)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in segmenter.parameters())
