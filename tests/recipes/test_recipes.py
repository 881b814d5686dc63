"""Recipes say what they mean, and what they say reaches the network and the loop."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers import DropPath

from foveal.data.transforms import Augmentation
from foveal.errors import FovealError, OptionError
from foveal.recipes.catalogue import RECIPES, configure, find_recipe
from foveal.recipes.classification import ClassificationRun
from foveal.recipes.config import ClassificationConfig, DataConfig, Distillation, from_dict
from tests.pictures import write_folder

TINY = {"embed_dim": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "attention_depth": [0, 0, 0, 1]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_folder(tmp_path_factory.mktemp("data") / "pictures"))


def tiny(recipe: str, folder: str, **changes: Any) -> ClassificationConfig:
    config = RECIPES[recipe]("efficientmod_xxs")
    train = replace(config.train, epochs=1, batch_size=6, workers=0, max_steps=2, warmup_epochs=0)
    values = {"options": TINY, "data": DataConfig(path=folder, held_out=0.2), "image_size": 32}
    return replace(config, train=train, **{**values, **changes})


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_explains_itself_and_survives_the_round_trip(name: str) -> None:
    text = RECIPES[name].__doc__ or ""
    assert all(word in text for word in ("Command:", "foveal", "--model"))
    assert "Time" in text and ("Expected:" in text or "score" in text or "measured" in text)
    config = RECIPES[name]("transnext_micro")
    assert config.recipe == name
    assert from_dict(ClassificationConfig, config.to_dict()) == config


def test_the_papers_differ_where_they_say_so() -> None:
    assert RECIPES["imagenet"]("focalnet_tiny_srf").train.warmup_epochs == 20
    assert RECIPES["imagenet"]("transnext_micro").train.warmup_epochs == 5
    assert RECIPES["imagenet"]("efficientmod_s").train.ema_decay == 0.9999
    assert RECIPES["finetune_384"]("transnext_small").train.epochs == 5
    assert RECIPES["finetune_384"]("dat_base").train.epochs == 30
    with pytest.raises(OptionError, match=r"'resnet50'; use --recipe small"):
        RECIPES["imagenet"]("resnet50")


def test_networks_go_by_the_names_of_tables_and_sizes() -> None:
    config = configure("small", "transnext_road/pool")
    assert (config.model, config.options["step"]) == ("transnext_road", "pool")
    assert configure("small", "transnext_4m", 32).options["pretrain_size"] == 32
    assert configure("small", "dat_pp_tiny").options["img_size"] == 64
    assert "pretrain_size" not in configure("finetune_384", "transnext_small").options
    with pytest.raises(OptionError, match=r"no component table 'transnext_rod'\. Did you mean"):
        configure("small", "transnext_rod/pool")
    with pytest.raises(OptionError, match=r"no row 'pol'\. Did you mean 'pool'"):
        configure("small", "transnext_road/pol")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"trian": {}}, "'trian'. Did you mean 'train'"),
        ({"train": {"epoch": 3}}, "'epoch'. Did you mean 'epochs'"),
        ({"mixing": {"mixup": -1}}, "mixup and cutmix are 0 or more"),
        ({"distillation": {"weight": 2}}, "weight lies between 0 and 1"),
    ],
)
def test_wrong_settings_name_the_nearest(values: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        from_dict(ClassificationConfig, values)


def test_unknown_recipe() -> None:
    with pytest.raises(OptionError, match=r"'finetun'\. Did you mean 'finetune'"):
        find_recipe("finetun")


@pytest.mark.parametrize("name", ["folder", "small", "imagenet", "finetune"])
def test_a_recipe_runs(name: str, folder: str, tmp_path: Path) -> None:
    config = tiny(name, folder)
    config = replace(config, train=replace(config.train, mixed_precision="no"))
    assert ClassificationRun(config, tmp_path / "run").fit(show_progress=False).steps == 2


def test_settings_reach_the_network(folder: str, tmp_path: Path) -> None:
    run = ClassificationRun(tiny("small", folder, drop_path_rate=0.4), tmp_path / "run")
    rates = [m.drop_prob for m in run.model.modules() if isinstance(m, DropPath)]
    assert max(rates) == pytest.approx(0.4)


def test_a_teacher_is_learnt_from(folder: str, tmp_path: Path) -> None:
    ClassificationRun(tiny("folder", folder), tmp_path / "teacher").fit(show_progress=False)
    teacher = str(tmp_path / "teacher")
    weights = {}
    for kind in ("hard", "soft"):
        taught = Distillation(teacher=teacher, kind=kind, weight=0.9)
        run = ClassificationRun(tiny("folder", folder, distillation=taught), tmp_path / kind)
        assert run.fit(show_progress=False).steps == 2
        weights[kind] = run.model.state_dict()["head.fc.weight"]
    assert not torch.equal(weights["hard"], weights["soft"])


def test_frozen_parts_stay_and_the_rest_moves(folder: str, tmp_path: Path) -> None:
    for output, settings in (("a", {"frozen_stages": 2}), ("b", {"head_only": True})):
        run = ClassificationRun(tiny("finetune", folder, **settings), tmp_path / output)
        before = {key: value.clone() for key, value in run.model.state_dict().items()}
        run.fit(show_progress=False)
        moved = {
            key for key, value in run.model.state_dict().items() if (value != before[key]).any()
        }
        assert any(key.startswith("head") for key in moved)
        held = ("stem", "stages.0", "stages.1") if output == "a" else ("stem", "stages", "norm")
        assert not any(key.startswith(held) for key in moved)
    assert any(key.startswith("head") for key in moved)
    with pytest.raises(OptionError, match=r"frozen_stages is 0 to 4 .* got 9"):
        ClassificationRun(tiny("finetune", folder, frozen_stages=9), tmp_path / "c").fit()


@pytest.mark.parametrize("text", ["", "{", "- a", "5", "model: [", "train: 5"])
def test_a_damaged_configuration_is_not_gone_on_with(
    folder: str, tmp_path: Path, text: str
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(FovealError, match=r"config\.yaml is damaged.*remove that file"):
        ClassificationRun(tiny("folder", folder), tmp_path, resume=True)


@pytest.mark.parametrize("setting", [{"seed": 3}, {"batch_size": 5}, {"accumulate": 2}])
def test_what_the_order_depends_on_is_resumed_with(
    folder: str, tmp_path: Path, setting: dict[str, int]
) -> None:
    """At the end of an epoch, too, where the loader has nothing to compare."""
    config = tiny("folder", folder)
    ClassificationRun(config, tmp_path).fit(show_progress=False)
    other = replace(config, train=replace(config.train, **setting))
    with pytest.raises(FovealError, match=f"has {next(iter(setting))} .*resume with the same"):
        ClassificationRun(other, tmp_path, resume=True)
    assert ClassificationRun(config, tmp_path, resume=True)


def test_an_option_that_is_left_out_is_another_run(folder: str, tmp_path: Path) -> None:
    config = tiny("folder", folder)
    with_one = replace(config, options={**config.options, "drop_rate": 0.5})
    ClassificationRun(with_one, tmp_path).fit(show_progress=False)
    with pytest.raises(FovealError, match="has options"):
        ClassificationRun(config, tmp_path, resume=True)


def test_a_run_is_replaced_only_by_one_that_can_begin(folder: str, tmp_path: Path) -> None:
    config = tiny("folder", folder)
    ClassificationRun(config, tmp_path).fit(show_progress=False)
    wrong = replace(config, augmentation=Augmentation(auto_augment="nonsense"))
    with pytest.raises(OptionError, match="auto_augment is one of timm's policies"):
        ClassificationRun(wrong, tmp_path, overwrite=True).fit(show_progress=False)
    assert (tmp_path / "best.safetensors").exists() and list((tmp_path / "state").iterdir())


def test_finetuning_random_weights_is_said(folder: str, tmp_path: Path) -> None:
    assert "random weights" in ClassificationRun(tiny("finetune", folder), tmp_path / "a").notes[0]
    assert not ClassificationRun(tiny("folder", folder), tmp_path / "b").notes


def test_the_rate_that_is_logged_is_the_peak_also_with_layer_decay(
    folder: str, tmp_path: Path
) -> None:
    config = tiny("finetune", folder)
    ClassificationRun(config, tmp_path).fit(show_progress=False)
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert config.train.layer_decay == 0.75 and first["lr"] == pytest.approx(config.train.lr)
