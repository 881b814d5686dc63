"""timm's contract beyond what its own tests check."""

import copy
import warnings

import pytest
import timm
import torch
from timm.models._hub import save_for_hf
from timm.models._manipulate import reinit_non_persistent_buffers
from timm.optim import create_optimizer_v2

import foveal
from foveal.errors import FovealError, OptionError
from tests.models.families import SHALLOW, SMALLEST, shallow, shallow_features

IMAGE = torch.randn(2, 3, 64, 96)


def test_registered_with_timm_and_timms_own_untouched() -> None:
    for name in foveal.list_models():
        assert timm.is_model(f"foveal_{name}")
        assert timm.is_model(name)
    assert type(timm.create_model("focalnet_tiny_srf")).__module__.startswith("timm.")
    assert type(timm.create_model("efficientmod_xxs")).__module__.startswith("foveal.")
    assert "focalnet_tiny_srf.ms_in1k" in timm.list_models("focalnet_*", pretrained=True)


def test_creating_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in foveal.list_models():
            foveal.create_model(name, device="meta")
    assert [record.getMessage() for record in caplog.records] == []


def test_unknown_names_and_options() -> None:
    with pytest.raises(FovealError, match="efficientmod_xxs"):
        foveal.create_model("eficientmod_xxs")
    with pytest.raises(OptionError, match="focal_windows"):
        foveal.create_model("focalnet_tiny_srf", focal_window=3)
    with pytest.raises(TypeError):
        timm.create_model("foveal_focalnet_tiny_srf", focal_window=3)


def test_list_models() -> None:
    assert foveal.list_models("efficientmod_x*") == ["efficientmod_xxs", "efficientmod_xs"]
    tagged = foveal.list_models(pretrained=True)
    assert "transnext_small.in1k_384" in tagged
    assert not any(name.startswith("cloformer") for name in tagged)


@pytest.mark.parametrize("name", list(SHALLOW))
class TestEveryFamily:
    def test_features_only(self, name: str) -> None:
        model = shallow_features(name, features_only=True, out_indices=(-2, -1))
        maps = model(IMAGE)
        channels, strides = model.feature_info.channels(), model.feature_info.reduction()
        assert [m.shape[1] for m in maps] == channels
        assert [tuple(m.shape[2:]) for m in maps] == [(64 // s, 96 // s) for s in strides]

    def test_intermediates(self, name: str) -> None:
        model = shallow(name)
        with torch.no_grad():
            last, maps = model.forward_intermediates(IMAGE, norm=True)
            torch.testing.assert_close(maps[-1], last)
            torch.testing.assert_close(last, model.forward_features(IMAGE))
            nhwc = model.forward_intermediates(
                IMAGE, indices=[1], stop_early=True, output_fmt="NHWC", intermediates_only=True
            )
        torch.testing.assert_close(nhwc[0], maps[1].permute(0, 2, 3, 1))
        with pytest.raises(OptionError, match="NHWC"):
            model.forward_intermediates(IMAGE, output_fmt="NLC")

    def test_pruning(self, name: str) -> None:
        model = shallow(name)
        with torch.no_grad():
            expected = model.forward_intermediates(IMAGE, indices=[0, 1], intermediates_only=True)
            assert model.prune_intermediate_layers([0, 1]) == [0, 1]
            pruned = model.forward_intermediates(IMAGE, intermediates_only=True)
        torch.testing.assert_close(pruned, expected)

    @pytest.mark.parametrize("in_chans", [1, 4])
    def test_in_chans(self, name: str, in_chans: int) -> None:
        model = shallow(name, in_chans=in_chans)
        assert model(torch.randn(1, in_chans, 64, 64)).shape == (1, 10)

    def test_meta_device(self, name: str) -> None:
        reference = shallow(name)
        with torch.device("meta"):
            model = foveal.create_model(name, **{"num_classes": 10, **SHALLOW[name]})
        model.to_empty(device="cpu")
        model.load_state_dict(reference.state_dict())
        reinit_non_persistent_buffers(model)
        torch.testing.assert_close(model.eval()(IMAGE), reference(IMAGE))

    def test_half_precision_model(self, name: str) -> None:
        model = foveal.create_model(name, dtype=torch.bfloat16, **SHALLOW[name]).eval()
        assert model(IMAGE.bfloat16()).dtype == torch.bfloat16

    def test_deepcopy(self, name: str) -> None:
        model = shallow(name)
        torch.testing.assert_close(copy.deepcopy(model)(IMAGE), model(IMAGE))

    def test_grad_checkpointing_changes_no_gradient(self, name: str) -> None:
        gradients = []
        for enable in (False, True):
            model = shallow(name)
            model.set_grad_checkpointing(enable)
            model(IMAGE).square().sum().backward()
            gradients.append([p.grad for p in model.parameters()])
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)

    def test_set_input_size(self, name: str) -> None:
        model = shallow(name)
        before = model(IMAGE)
        model.set_input_size((64, 96))
        torch.testing.assert_close(model(IMAGE), before)
        with pytest.raises(FovealError, match="at least 32"):
            model.set_input_size(16)

    def test_layer_decay_groups(self, name: str) -> None:
        model = shallow(name)
        optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, layer_decay=0.5, weight_decay=0.1)
        scales = {g["lr_scale"] for g in optimizer.param_groups}
        assert len(scales) > 4
        count = sum(p.numel() for g in optimizer.param_groups for p in g["params"])
        assert count == sum(p.numel() for p in model.parameters())
        head = next(
            g for g in optimizer.param_groups if any(p is model.head.fc.weight for p in g["params"])
        )
        stem = next(
            g
            for g in optimizer.param_groups
            if any(p is model.stem.get_submodule("proj").weight for p in g["params"])
        )
        assert head["lr_scale"] == max(scales)
        assert stem["lr_scale"] == min(scales)

    def test_saved_and_loaded_by_timm(self, name: str, tmp_path) -> None:
        model = foveal.create_model(name, num_classes=10, **SHALLOW[name]).eval()
        arguments = {"num_classes": 10, **SHALLOW[name]}
        save_for_hf(model, tmp_path, model_args=arguments)
        loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        torch.testing.assert_close(loaded(IMAGE), model(IMAGE))


@pytest.mark.parametrize("name", SMALLEST)
def test_reset_classifier(name: str) -> None:
    model = shallow(name)
    model.reset_classifier(7)
    assert model(IMAGE).shape == (2, 7)
    model.reset_classifier(0)
    assert model(IMAGE).shape == (2, model.num_features)
    model.reset_classifier(0, "")
    assert model(IMAGE).shape == (2, model.num_features, 2, 3)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["focalnet_tiny_srf", "efficientmod_xxs"])
def test_output_stride_keeps_the_map_fine(name: str, output_stride: int) -> None:
    model = shallow_features(name, features_only=True, output_stride=output_stride)
    maps = model(IMAGE)
    strides = model.feature_info.reduction()
    assert max(strides) == output_stride
    assert [tuple(m.shape[2:]) for m in maps] == [(64 // s, 96 // s) for s in strides]


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("conv_embed", [False, True])
def test_output_stride_computes_the_same_at_the_coarse_positions(
    output_stride: int, conv_embed: bool
) -> None:
    """What dilation means: every 32 / output_stride-th cell is the strided network's."""
    options = {"use_conv_embed": conv_embed}
    coarse = shallow("focalnet_tiny_srf", **options).double()
    fine = shallow("focalnet_tiny_srf", output_stride=output_stride, **options).double()
    fine.load_state_dict(coarse.state_dict())
    for model in (coarse, fine):  # the global context is a mean over all cells: leave it out
        for module in model.modules():
            if isinstance(module, foveal.mixers.FocalModulation):
                module.f.weight.data[-1] = 0
                module.f.bias.data[-1] = 0
    image = IMAGE.double()
    step = 32 // output_stride
    fine_map = fine.forward_features(image)[:, :, ::step, ::step]
    torch.testing.assert_close(fine_map, coarse.forward_features(image))


@pytest.mark.parametrize(
    "name", ["transnext_micro", "cloformer_xxs", "dat_tiny", "focalnet_tiny_iso"]
)
def test_no_output_stride_elsewhere(name: str) -> None:
    with pytest.raises(OptionError, match="output_stride"):
        foveal.create_model(name, output_stride=16)


def test_isotropic_features_are_the_blocks() -> None:
    model = shallow("focalnet_tiny_iso")
    assert [i["module"] for i in model.feature_info] == [f"stages.0.blocks.{i}" for i in range(3)]
    maps = shallow_features("focalnet_tiny_iso", features_only=True)(IMAGE)
    assert [tuple(m.shape) for m in maps] == [(2, 32, 4, 6)] * 3
