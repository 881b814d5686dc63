"""Reading files that are not trusted, in every wrapper and layout they come in."""

import argparse
import collections
import os
import pathlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from timm.models.focalnet import FocalNet as TimmFocalNet
from torch import nn

import foveal
from foveal.errors import CheckpointError
from foveal.models.checkpoint import read_checkpoint
from tests.models.families import SHALLOW as FAMILIES_SHALLOW
from tests.models.families import shallow
from tests.models.small_models import images, official, randomized, same, small_focalnet


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def save_content(content: object, **how: Any) -> Path:
        path = tmp_path / "weights.pth"
        torch.save(content, path, **how)
        return path

    return save_content


def refused(model: nn.Module, path: Path, match: str) -> str:
    """Loading fails with a sentence, and leaves the model as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match) as info:
        foveal.load_checkpoint(model, path)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    message = str(info.value)
    assert path.name in message
    return message


# --- layouts ---


def test_official_and_our_own_layout_load_alike(save):
    source = small_focalnet()
    for layout, content in (("official", official(source)), ("Foveal", source.state_dict())):
        target = small_focalnet(seed=1)
        report = foveal.load_checkpoint(target, save(content))
        assert report.layout == layout
        assert report.num_loaded == len(source.state_dict())
        assert not report.fresh and not report.changes
        assert same(source, target)


def test_safetensors_with_metadata_load_whatever_their_name(tmp_path: Path):
    source = small_focalnet()
    for name in ("weights.safetensors", "weights.bin"):
        path = tmp_path / name
        safetensors.torch.save_file(source.state_dict(), path, metadata={"model": "focalnet"})
        target = small_focalnet(seed=1)
        foveal.load_checkpoint(target, path)
        assert same(source, target)


def test_the_old_format_of_torch_loads(save):
    source, target = small_focalnet(), small_focalnet(seed=1)
    foveal.load_checkpoint(target, save(source.state_dict(), _use_new_zipfile_serialization=False))
    assert same(source, target)


def logits_agree(theirs: nn.Module, ours: nn.Module, path: Path) -> None:
    torch.save(theirs.state_dict(), path)
    report = foveal.load_checkpoint(ours.eval(), path)
    assert report.layout == "timm" and not report.changes
    with torch.no_grad():
        expected, got = theirs.eval()(images()), ours(images())
    assert (expected - got).abs().max() <= 1e-5 * expected.abs().max()


def test_timms_own_focalnet_gives_the_same_logits(tmp_path: Path):
    theirs = timm.create_model("focalnet_tiny_srf")
    logits_agree(theirs, foveal.create_model("focalnet_tiny_srf"), tmp_path / "timm.pth")


def test_timms_layout_with_every_option_gives_the_same_logits(tmp_path: Path):
    theirs = TimmFocalNet(
        num_classes=10,
        embed_dim=16,
        depths=(1, 1, 1, 1),
        focal_levels=(3, 3, 3, 3),
        focal_windows=(5, 5, 5, 5),
        use_overlap_down=True,
        use_post_norm=True,
        use_post_norm_in_modulation=True,
        layerscale_value=0.5,
    )
    # timm's norms have an epsilon of 1e-6, the authors' and ours 1e-5.
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    ours = small_focalnet(
        focal_levels=3,
        focal_windows=5,
        use_conv_embed=True,
        use_postln=True,
        use_postln_in_modulation=True,
        use_layerscale=True,
    )
    logits_agree(randomized(theirs), ours, tmp_path / "timm.pth")


@pytest.mark.parametrize("name", [*FAMILIES_SHALLOW])
def test_every_family_loads_its_own_files(save, name: str):
    source, target = shallow(name), shallow(name)
    randomized(source)
    for layout, content in (("official", official(source)), ("Foveal", source.state_dict())):
        report = foveal.load_checkpoint(target, save({"model": content}))
        assert report.layout == layout and not report.changes
        assert same(source, target)


# --- wrappers ---


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrappers_come_off(save, key: str, prefix: str):
    source, target = small_focalnet(), small_focalnet(seed=1)
    weights = {prefix + name: value for name, value in official(source).items()}
    foveal.load_checkpoint(target, save({key: weights, "epoch": 3, "optimizer": {"lr": 0.1}}))
    assert same(source, target)


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema"])
def test_the_moving_average_is_preferred(save, key: str):
    last, average, target = small_focalnet(), small_focalnet(seed=1), small_focalnet(seed=2)
    path = save(
        {"model": official(last), key: {"module." + k: v for k, v in official(average).items()}}
    )
    report = foveal.load_checkpoint(target, path)
    assert same(average, target)
    assert any("EMA" in change for change in report.changes)
    assert "EMA" in str(report)


def test_an_empty_moving_average_is_passed_over(save):
    source, target = small_focalnet(), small_focalnet(seed=1)
    foveal.load_checkpoint(target, save({"model": official(source), "model_ema": None}))
    assert same(source, target)


def test_the_backbone_of_a_detector_loads(save):
    source, target = small_focalnet(), small_focalnet(seed=1)
    weights = {
        f"backbone.{k}": v
        for k, v in official(source).items()
        if not k.startswith(("head.", "norm."))
    }
    weights |= {"backbone.norm0.weight": torch.ones(16), "rpn_head.conv.weight": torch.ones(3)}
    report = foveal.load_checkpoint(target, save({"state_dict": weights}))
    assert torch.equal(
        target.stem.state_dict()["proj.weight"], source.stem.state_dict()["proj.weight"]
    )
    assert set(report.fresh) == {"head.fc.weight", "head.fc.bias", "norm.weight", "norm.bias"}
    assert "left out 1 tensors" in str(report) and "norm0.weight" in str(report)


def test_harmless_objects_load(save):
    source, target = small_focalnet(), small_focalnet(seed=1)
    content = {
        "model": official(source),
        "args": argparse.Namespace(lr=1e-3, output=pathlib.Path("runs/1"), steps=[1, 2]),
        "best": np.float64(82.1),
        "epoch": np.int64(300),
        "done": np.bool_(True),
        "history": np.arange(3, dtype=np.float32),
        "names": np.array(["a", "b"]),
        "dtype": np.dtype("float16"),
        "random": np.random.get_state(),
        "meters": collections.defaultdict(list, {"loss": [1.0]}),
        "ordered": collections.OrderedDict(a=1),
        "pure": pathlib.PureWindowsPath("c:/x"),
    }
    for new_format in (True, False):
        path = save(content, _use_new_zipfile_serialization=new_format)
        foveal.load_checkpoint(target, path)
        assert same(source, target)


def test_numpy_1_names_load(tmp_path: Path, save):
    path = save({"a": torch.ones(2), "best": np.float64(1.0)}, _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert b"numpy.core.multiarray" in old
    path.write_bytes(old)
    assert list(read_checkpoint(path)) == ["a"]


def test_weights_as_numpy_arrays_load(save):
    source, target = small_focalnet(), small_focalnet(seed=1)
    foveal.load_checkpoint(target, save({k: v.numpy() for k, v in official(source).items()}))
    assert same(source, target)


# --- files that are refused ---


class Hostile:
    """Unpickling it would run a command."""

    def __init__(self, function: Callable[..., object], *arguments: object):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec, os.unlink, nn.Linear])
def test_a_hostile_file_runs_nothing(save, tmp_path: Path, function):
    trace = tmp_path / "trace"
    argument = (
        f"open({str(trace)!r}, 'w').close()" if function in (eval, exec) else f"touch {trace}"
    )
    attack = Hostile(function, argument)
    for how in ({}, {"_use_new_zipfile_serialization": False}):
        message = refused(
            small_focalnet(), save({"model": attack}, **how), "nothing of it was exec"
        )
        assert function.__name__ in message
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps(attack, protocol=2))
    refused(small_focalnet(), plain, "plain.pth")
    assert not trace.exists()


def test_a_yacs_configuration_says_how_to_save_the_weights_again(save):
    yacs = pytest.importorskip("yacs.config")
    weights = official(small_focalnet())
    path = save({"model": weights, "config": yacs.CfgNode({"MODEL": yacs.CfgNode({"NAME": "x"})})})
    message = refused(small_focalnet(), path, "yacs")
    command = re.search(r'python -c "(.*)"', message)
    assert command
    folder = Path.cwd()
    os.chdir(path.parent)
    try:
        exec(command[1])
    finally:
        os.chdir(folder)
    assert read_checkpoint(path.with_name("weights_weights.pth")).keys() == weights.keys()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "web page"),
        (b"\n<HTML><body>Sign in</body></HTML>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a", "git lfs pull"),
        (b"just some text, nothing else at all", "not a checkpoint"),
        (b"\x80\x02K\x01.", "not a checkpoint|cut off"),
        (b"PK\x03\x04" + bytes(200), "cut off"),
        (bytes(range(256)) * 8, "not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes, match: str):
    for ending in ("pth", "safetensors"):
        path = tmp_path / f"weights.{ending}"
        path.write_bytes(content)
        expected = match if match != "not a checkpoint" else "not a checkpoint|no safetensors"
        refused(small_focalnet(), path, f"weights.{ending}.*({expected}|no safetensors)")


@pytest.mark.parametrize("share", [0.0005, 0.3, 0.99])
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, save, kind: str, share: float):
    weights = official(small_focalnet())
    if kind == "safetensors":
        path = tmp_path / "weights.safetensors"
        safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, path)
    else:
        path = save(weights, _use_new_zipfile_serialization=kind == "zip")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    refused(small_focalnet(), path, "cut off|damaged")


def test_missing_files_and_folders_are_named(tmp_path: Path):
    refused(small_focalnet(), tmp_path / "none.pth", "does not exist")
    refused(small_focalnet(), tmp_path, "is a folder")


def test_a_file_without_weights_is_refused(save):
    refused(small_focalnet(), save({"epoch": 3, "lr": 0.1}), "holds no weights.*epoch, lr")
    refused(small_focalnet(), save([1, 2]), "holds no weights")


# --- networks that do not match ---


def test_another_family_is_named(save):
    cloformer = shallow("cloformer_xxs")
    for content in (cloformer.state_dict(), official(cloformer)):
        refused(small_focalnet(), save(content), "look like those of CloFormer")
    path = save(official(small_focalnet()))
    refused(shallow("efficientmod_xxs"), path, "look like those of FocalNet")


def test_a_network_that_nobody_knows_is_refused(save):
    content = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).state_dict()
    refused(small_focalnet(), save(content), "not one of FocalNet, nor of any network")


def test_another_variant_is_named(save):
    sizes = foveal.create_model("focalnet_tiny_lrf", device="meta").state_dict()
    content = {key: torch.zeros(()).expand(value.shape) for key, value in sizes.items()}
    refused(small_focalnet(), save(content), "does not fit.*those of focalnet_tiny_lrf")


def test_a_model_without_memory_is_refused(save):
    path = save(official(small_focalnet()))
    meta = foveal.create_model("focalnet_tiny_srf", device="meta")
    with pytest.raises(CheckpointError, match="meta device"):
        foveal.load_checkpoint(meta, path)


def test_features_alone_are_loaded_on_creation(save):
    source = small_focalnet()
    path = save(official(source))
    options = {"embed_dim": 16, "depths": (1, 1, 1, 1), "features_only": True}
    features = foveal.create_model("focalnet_tiny_srf", **options)
    with pytest.raises(CheckpointError, match="features_only=True"):
        foveal.load_checkpoint(features, path)
    features = foveal.create_model(
        "focalnet_tiny_srf", True, pretrained_cfg_overlay={"file": str(path)}, **options
    ).eval()
    with torch.no_grad():
        torch.testing.assert_close(
            list(features(images())),
            source.forward_intermediates(images(), intermediates_only=True),
            rtol=0,
            atol=0,
        )
