"""A trained segmenter with other options of its backbone: the same weights, made to fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.errors import CheckpointError
from foveal.tools.dense import load_segmenter
from foveal.tools.scene_modes import judge_modes
from foveal.tools.scenes import SceneSettings
from tests.tasks.segmentation.small_segmenters import write_segmenter

IMAGES = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def scores(model: Any, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return model(images)


def test_transnext_extrapolates_or_interpolates_as_asked(tmp_path: Path) -> None:
    """Its bias differs at other sizes than the calibrated one, and only there."""
    run = write_segmenter(tmp_path, "transnext_micro", pretrain_size=64)
    plain = load_segmenter(run)
    asked = {
        mode: load_segmenter(run, options={"position_bias": mode})
        for mode in ("extrapolate", "interpolate")
    }
    assert all(one.changes == () for one in asked.values())
    assert torch.equal(scores(asked["extrapolate"].model), scores(plain.model))
    there = {mode: scores(one.model) for mode, one in asked.items()}
    assert not torch.allclose(there["extrapolate"], there["interpolate"], atol=1e-4)
    square = IMAGES[..., :64]
    calibrated = [scores(one.model, square) for one in asked.values()]
    torch.testing.assert_close(*calibrated, rtol=1e-4, atol=1e-5)


def test_larger_focal_kernels_after_training_compute_the_same(tmp_path: Path) -> None:
    run = write_segmenter(tmp_path, "focalnet_tiny_srf")
    plain = load_segmenter(run)
    larger = load_segmenter(run, options={"focal_windows": [11, 9, 9, 7]})
    assert larger.card.options["focal_windows"] == [11, 9, 9, 7]
    assert any("from 3×3 to 11×11" in change for change in larger.changes)
    torch.testing.assert_close(scores(larger.model), scores(plain.model), rtol=1e-4, atol=1e-4)


def test_dat_tables_of_another_side_are_resized(tmp_path: Path) -> None:
    run = write_segmenter(tmp_path, "dat_tiny")
    larger = load_segmenter(run, options={"img_size": 384})
    assert any("position table resized bicubically" in change for change in larger.changes)
    assert scores(larger.model).isfinite().all()


def test_options_of_another_network_are_refused(tmp_path: Path) -> None:
    run = write_segmenter(tmp_path, "focalnet_tiny_srf")
    with pytest.raises(CheckpointError, match="are not those of semantic_fpn on focalnet_tiny_srf"):
        load_segmenter(run, options={"embed_dim": 32})


def test_modes_are_judged_one_after_the_other(tmp_path: Path) -> None:
    """Each on every image with weights left alone, and told of as one long evaluation."""
    trained = load_segmenter(write_segmenter(tmp_path, "transnext_micro", pretrain_size=32))
    before = {key: value.clone() for key, value in trained.model.state_dict().items()}
    labels = torch.arange(96).expand(1, 64, 96) // 32
    batches = [{"image": IMAGES, "label": labels, "name": ["a"]}] * 2
    told: list[int] = []
    settings = SceneSettings(mean=(0.5,) * 3, std=(0.25,) * 3, on_image=told.append)
    rows = judge_modes(trained, batches, settings)
    assert [(row.mode, row.num_images) for row in rows] == [
        ("extrapolated", 2),
        ("interpolated", 2),
    ]
    assert told == [1, 2, 3, 4]
    assert rows[0].miou != rows[1].miou and rows[0].aacc != rows[1].aacc
    assert "position_bias" not in trained.card.options
    assert all(torch.equal(v, before[k]) for k, v in trained.model.state_dict().items())
