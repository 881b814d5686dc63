"""Recipes of detectors and segmenters say what they mean, and reach network, data and schedule."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from foveal.data.joint_augmentation import DetectionAugmentation
from foveal.errors import FovealError, OptionError
from foveal.recipes.config import from_dict
from foveal.recipes.dense import DetectionRun
from foveal.recipes.dense_catalogue import DENSE_TASKS
from foveal.recipes.dense_config import DetectionConfig, DetectionData
from foveal.recipes.detection import DETECTION_RECIPES, objects
from foveal.recipes.segmentation import SEGMENTATION_RECIPES
from foveal.train.optimization import create_optimizer
from tests.data import coco_files
from tests.models.families import SHALLOW

ALL = [(task, name) for task, kind in DENSE_TASKS.items() for name in kind.recipes]
NAME = "focalnet_tiny_srf"


@pytest.mark.parametrize(("task", "name"), ALL)
def test_every_recipe_explains_itself_and_survives_the_round_trip(task: str, name: str) -> None:
    recipes: dict[str, Callable[..., Any]] = {**DETECTION_RECIPES, **SEGMENTATION_RECIPES}
    text = recipes[name].__doc__ or ""
    assert "Command:" in text and "Time" in text and ("Expected" in text or "score" in text)
    config = DENSE_TASKS[task].configure(name, next(iter(DENSE_TASKS[task].heads)), "dat_pp_tiny")
    assert config.recipe == name and config.model == "dat_pp_tiny"
    # As YAML and JSON give it back, tuples within options and all.
    again = from_dict(DENSE_TASKS[task].config, json.loads(json.dumps(config.to_dict())))
    assert again == config


def test_the_papers_lengths() -> None:
    """COCO's 1× and 3×, and steps of ADE20K, in the images that a step has on eight devices."""
    one = DETECTION_RECIPES["coco_1x"]("mask_rcnn", NAME).train
    assert (one.epochs, one.schedule) == (12, "steps")
    assert [share * one.epochs for share in one.lr_steps] == pytest.approx([8, 11])
    # 117,266 images with objects, two on each of eight devices.
    assert one.total_steps(7330) == 87_960 and one.peak_lr(8) == pytest.approx(1e-4)
    for name, steps in (("ade20k_160k", 160_000), ("ade20k_80k", 80_000), ("ade20k_40k", 40_000)):
        train = SEGMENTATION_RECIPES[name]("upernet", NAME).train
        assert train.lr_batch_size is not None
        steps_per_epoch = 20_210 // train.lr_batch_size
        assert train.total_steps(steps_per_epoch) == steps
        assert train.warmup_epochs * steps_per_epoch == pytest.approx(1500, rel=0.01)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> DetectionData:
    data, images = coco_files.write(tmp_path_factory.mktemp("cells"), coco_files.content(4))
    return DetectionData(path=str(data), val_data=str(data), images=str(images))


def small(cells: DetectionData, **changes: Any) -> DetectionConfig:
    config = objects("fcos", NAME)
    augmentation = DetectionAugmentation(scales=(64,), max_side=128, eval_scale=64)
    values: dict[str, Any] = {"data": cells, "options": SHALLOW[NAME], "augmentation": augmentation}
    return replace(config, **{**values, **changes})


def test_what_is_frozen_stays_as_it_is(cells: DetectionData, tmp_path: Path) -> None:
    run = DetectionRun(
        small(cells, frozen_stages=2, frozen_norms=True, drop_path_rate=0.2), tmp_path / "run"
    )
    model: Any = run.model
    backbone = model.pyramid().model
    assert backbone.config.drop_path_rate == 0.2
    still = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in still if name.startswith("stages.")} >= {"0", "1"}
    kinds = (nn.modules.batchnorm._NormBase, nn.LayerNorm)
    norms = {n for n, m in backbone.named_modules() if isinstance(m, kinds)}
    assert norms and all(f"{name}.weight" in still for name in norms)
    model.train()
    for part in run.held:
        part.eval()
    assert not any(m.training for n, m in backbone.named_modules() if n in norms)


def test_earlier_layers_learn_more_slowly(cells: DetectionData, tmp_path: Path) -> None:
    config = small(cells)
    config = replace(config, train=replace(config.train, layer_decay=0.5))
    model: Any = DetectionRun(config, tmp_path / "run").model
    scales: dict[int, float] = {}
    for group in create_optimizer(model, config.train).param_groups:
        scales |= {id(p): group["lr_scale"] for p in group["params"]}
    stem = next(model.pyramid().model.stem.parameters())
    last = list(model.pyramid().model.stages[-1].parameters())[-1]
    head = next(p for n, p in model.named_parameters() if "head" in n and id(p) in scales)
    assert scales[id(stem)] < scales[id(last)] < scales[id(head)] == 1.0


def test_annotations_with_faults_are_named_and_refused_if_strict(tmp_path: Path) -> None:
    content = coco_files.content(4)
    content["annotations"][0]["bbox"] = [5, 5, -3, 4]
    data, images = coco_files.write(tmp_path, content)
    given = DetectionData(path=str(data), val_data=str(data), images=str(images))
    run = DetectionRun(small(given), tmp_path / "run")
    assert run.problems[0].total == 1 and "negative" in str(run.problems[0])
    with pytest.raises(FovealError, match="negative"):
        DetectionRun(small(replace(given, strict=True)), tmp_path / "other")


def test_options_with_settings_of_their_own_are_refused() -> None:
    with pytest.raises(OptionError, match="num_classes is no option"):
        DetectionConfig(options={"num_classes": 3})
    with pytest.raises(OptionError, match="drop_path_rate is 0 or more"):
        DetectionConfig(drop_path_rate=1.0)


def test_the_seed_decides_about_the_first_weights(cells: DetectionData, tmp_path: Path) -> None:
    first, again = (DetectionRun(small(cells), tmp_path / str(i)).model for i in range(2))
    others = again.state_dict()
    for name, ours in first.state_dict().items():
        assert torch.equal(ours, others[name]), name
