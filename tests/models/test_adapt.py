"""Weights made to fit a network that differs from their own."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.errors import CheckpointError
from foveal.models.adapt import adapt
from foveal.models.backbone import Backbone
from foveal.models.checkpoint import CheckpointFile, LoadReport, load_weights
from tests.models.families import shallow
from tests.models.small_models import images, official, same, small_focalnet

HEAD = {"head.fc.weight", "head.fc.bias"}


def load(source: Backbone, target: Backbone) -> LoadReport:
    return load_weights(target, CheckpointFile("file.pth", official(source)))


def classifier(model: Backbone, name: str = "weight") -> Tensor:
    return model.state_dict()[f"head.fc.{name}"]


def features_agree(source: Backbone, target: Backbone) -> None:
    with torch.no_grad():
        ours, theirs = target.forward_features(images()), source.forward_features(images())
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_another_class_count_keeps_the_fresh_classifier():
    source, target = small_focalnet(), small_focalnet(seed=1, num_classes=7)
    fresh = classifier(target).clone()
    report = load(source, target)
    assert set(report.fresh) == HEAD
    assert torch.equal(classifier(target), fresh)
    assert "10 classes" in str(report) and "of 7" in str(report)
    features_agree(source, target)


def test_a_headless_model_drops_the_classifier():
    source, target = small_focalnet(), small_focalnet(seed=1, num_classes=0)
    report = load(source, target)
    assert not report.fresh
    assert "dropped the checkpoint's classifier" in str(report)
    features_agree(source, target)


def test_a_headless_checkpoint_keeps_the_fresh_classifier():
    source, target = small_focalnet(num_classes=0), small_focalnet(seed=1)
    report = load(source, target)
    assert set(report.fresh) == HEAD
    assert "has no classifier" in str(report)


def test_a_pooling_of_twice_the_channels_keeps_the_fresh_classifier():
    source, target = small_focalnet(), small_focalnet(seed=1, global_pool="catavgmax")
    assert set(load(source, target).fresh) == HEAD


def test_22k_classifiers_give_their_first_thousand_rows():
    source = small_focalnet(num_classes=21842)
    target = small_focalnet(seed=1, num_classes=1000)
    report = load(source, target)
    assert torch.equal(classifier(target), classifier(source)[:1000])
    assert torch.equal(classifier(target, "bias"), classifier(source, "bias")[:1000])
    assert not report.fresh
    assert "850 (teddy bear)" in str(report) and "never trained" in str(report)


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_image_channels_are_adapted(channels: int):
    source, target = small_focalnet(), small_focalnet(seed=1, in_chans=channels)
    report = load(source, target)
    assert f"takes {channels}" in str(report)
    theirs, ours = source.stem.state_dict()["proj.weight"], target.stem.state_dict()["proj.weight"]
    if channels == 1:
        torch.testing.assert_close(ours, theirs.sum(1, keepdim=True))
    else:
        torch.testing.assert_close(ours[:, 0], theirs[:, 0] * 3 / channels)


def test_a_grey_checkpoint_goes_into_a_colour_model():
    source, target = small_focalnet(in_chans=1), small_focalnet(seed=1)
    load(source, target)
    grey = images(1)
    with torch.no_grad():
        torch.testing.assert_close(
            target(grey.expand(-1, 3, -1, -1)), source(grey), rtol=1e-4, atol=1e-4
        )


def test_larger_focal_kernels_compute_the_same():
    source, target = small_focalnet(), small_focalnet(seed=1, focal_windows=9)
    report = load(source, target)
    assert "padded around their centre from 3×3 to 9×9 (4 tensors)" in str(report)
    features_agree(source, target)


def test_smaller_focal_kernels_keep_the_centre():
    source, target = small_focalnet(focal_windows=(9, 7, 5, 3)), small_focalnet(seed=1)
    report = load(source, target)
    key = "stages.0.blocks.0.mixer.focal_layers.0.weight"
    assert torch.equal(target.state_dict()[key], source.state_dict()[key][:, :, 3:6, 3:6])
    assert "cropped around their centre from 9×9 to 3×3" in str(report)


def test_more_focal_levels_start_with_closed_gates():
    source, target = small_focalnet(), small_focalnet(seed=1, focal_levels=4)
    kernels = {k: v.clone() for k, v in target.state_dict().items() if "focal_layers." in k}
    report = load(source, target)
    mixer = "stages.2.blocks.0.mixer."
    ours, theirs = target.state_dict(), source.state_dict()
    for name in ("f.weight", "f.bias"):
        new, old = ours[mixer + name], theirs[mixer + name]
        assert torch.equal(new[: len(old) - 1], old[:-1])
        assert torch.equal(new[-1], old[-1])
        assert not new[len(old) - 1 : -1].any()
    new = [k for k in kernels if k.split("focal_layers.")[1][0] in "23"]
    assert set(report.fresh) == set(new)
    assert all(torch.equal(ours[k], kernels[k]) for k in new)
    assert "4 instead of 2" in str(report)


def test_fewer_focal_levels_are_refused():
    with pytest.raises(CheckpointError, match="create it with focal_levels=3"):
        load(small_focalnet(focal_levels=3), small_focalnet())


def test_a_linear_layer_takes_a_pointwise_convolution_and_back():
    model = small_focalnet()
    weights = {
        key: value[:, :, None, None]
        if value.ndim == 2 and "head" not in key
        else value[:, :, 0, 0]
        if value.shape[2:] == (1, 1)
        else value
        for key, value in model.state_dict().items()
    }
    fitted = adapt(weights, model)
    assert not fitted.changes
    for key, value in model.state_dict().items():
        assert torch.equal(fitted.state_dict[key], value)


def test_what_does_not_fit_is_listed_with_both_sizes():
    source, target = small_focalnet(embed_dim=32), small_focalnet()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(CheckpointError) as info:
        load(source, target)
    message = str(info.value)
    assert "stem.proj.weight is 32×3×4×4 instead of 16×3×4×4" in message
    assert message.count("instead of") == 4 and "more." in message
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_missing_and_foreign_keys_are_listed():
    model = small_focalnet()
    weights = {k: v for k, v in model.state_dict().items() if not k.endswith("h.bias")}
    weights["stages.0.blocks.7.mixer.h.bias"] = torch.ones(3)
    with pytest.raises(CheckpointError, match=r"mixer\.h\.bias 16 is missing.*and 1 more"):
        adapt(weights, model)


@pytest.mark.parametrize("wrong", [torch.ones(()), torch.ones(3), torch.ones(2, 2, 2, 2, 2)])
def test_tensors_of_any_shape_are_refused_in_words(wrong: Tensor):
    model = small_focalnet()
    for key in model.state_dict():
        if model.state_dict()[key].shape != wrong.shape:
            with pytest.raises(CheckpointError, match="does not fit"):
                adapt({**model.state_dict(), key: wrong}, model)


# --- DAT's tables ---


def tables(model: Backbone) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if k.endswith("table")}


def at_another_resolution(position_bias: str) -> tuple[Backbone, Backbone, LoadReport]:
    options: dict[str, Any] = {"position_bias": position_bias}
    source = shallow("dat_tiny", **options)
    target = shallow("dat_tiny", img_size=384, window_size=12, **options)
    with torch.no_grad():
        for index, table in enumerate(tables(source).values()):
            table.fill_(index + 1.0)
    return source, target, load(source, target)


@pytest.mark.parametrize("position_bias", ["table", "fixed"])
def test_tables_of_another_resolution_are_resized(position_bias: str):
    source, target, report = at_another_resolution(position_bias)
    assert "position table resized" in str(report)
    for index, (key, table) in enumerate(tables(target).items()):
        assert table.shape != source.state_dict()[key].shape
        torch.testing.assert_close(table, torch.full_like(table, index + 1.0))


def test_a_resized_displacement_table_keeps_its_corners_and_centre():
    source, target = shallow("dat_tiny"), shallow("dat_tiny", img_size=384, window_size=12)
    load(source, target)
    key = next(k for k in tables(source) if k.endswith("position_bias.table"))
    theirs, ours = source.state_dict()[key], target.state_dict()[key]
    expected = F.interpolate(theirs[None], ours.shape[1:], mode="bicubic", align_corners=True)[0]
    torch.testing.assert_close(ours, expected)
    middle = [side // 2 for side in (*theirs.shape[1:], *ours.shape[1:])]
    torch.testing.assert_close(ours[:, middle[2], middle[3]], theirs[:, middle[0], middle[1]])
    torch.testing.assert_close(ours[:, -1, -1], theirs[:, -1, -1])


def test_a_fixed_table_is_resized_over_queries_and_keys():
    source = shallow("dat_tiny", position_bias="fixed")
    target = shallow("dat_tiny", img_size=384, window_size=12, position_bias="fixed")
    key = next(k for k in tables(source) if k.endswith("position_bias.table"))
    heads, queries, keys = source.state_dict()[key].shape
    rows = torch.arange(queries) // int(queries**0.5)
    with torch.no_grad():
        source.state_dict()[key].copy_(rows[None, :, None].expand(heads, queries, keys))
    load(source, target)
    ours = target.state_dict()[key]
    # A table that only knows the query's row still only knows the query's row.
    torch.testing.assert_close(ours, ours[:1, :, :1].expand_as(ours))
    side = int(ours.shape[1] ** 0.5)
    by_row = ours[0, :, 0].view(side, side)
    torch.testing.assert_close(by_row, by_row[:, :1].expand_as(by_row), rtol=1e-4, atol=1e-4)
    assert (by_row[1:, 0] > by_row[:-1, 0]).all()


def test_a_window_table_is_resized_around_its_centre():
    source, target = shallow("dat_tiny"), shallow("dat_tiny", img_size=384, window_size=12)
    load(source, target)
    key = next(k for k in tables(source) if k.endswith("relative_position_bias_table"))
    theirs, ours = source.state_dict()[key], target.state_dict()[key]
    assert len(ours) == 23**2
    torch.testing.assert_close(ours[23**2 // 2], theirs[13**2 // 2])


def test_the_same_resolution_changes_nothing():
    source, target = shallow("dat_tiny"), shallow("dat_tiny")
    assert not load(source, target).changes
    assert same(source, target)
