"""A trained segmenter with other options of its backbone: the same weights, made to fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from foveal.errors import CheckpointError
from foveal.tools.dense import DenseCard, load_segmenter
from foveal.train.checkpoint import write_weights
from tests.models.families import SHALLOW, stir

IMAGES = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def saved(folder: Path, backbone: str, **options: Any) -> Path:
    """A segmenter as a run leaves it, every weight away from its initial zero or one."""
    card = DenseCard(
        task="segmentation",
        head="semantic_fpn",
        model=backbone,
        options={**SHALLOW[backbone], **options},
        head_options={"pyramid_channels": 16, "channels": 32},
        classes=("sky", "house", "road"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    torch.manual_seed(0)
    model = card.build()
    stir(model.pyramid())
    write_weights(folder / "best.safetensors", model.state_dict(), card.to_metadata())
    return folder


def scores(model: Any, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return model(images)


def test_transnext_extrapolates_or_interpolates_as_asked(tmp_path: Path) -> None:
    """Its bias differs at other sizes than the calibrated one, and only there."""
    run = saved(tmp_path, "transnext_micro", pretrain_size=64)
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
    run = saved(tmp_path, "focalnet_tiny_srf")
    plain = load_segmenter(run)
    larger = load_segmenter(run, options={"focal_windows": [11, 9, 9, 7]})
    assert larger.card.options["focal_windows"] == [11, 9, 9, 7]
    assert any("from 3×3 to 11×11" in change for change in larger.changes)
    torch.testing.assert_close(scores(larger.model), scores(plain.model), rtol=1e-4, atol=1e-4)


def test_dat_tables_of_another_side_are_resized(tmp_path: Path) -> None:
    run = saved(tmp_path, "dat_tiny")
    larger = load_segmenter(run, options={"img_size": 384})
    assert any("position table resized bicubically" in change for change in larger.changes)
    assert scores(larger.model).isfinite().all()


def test_options_of_another_network_are_refused(tmp_path: Path) -> None:
    run = saved(tmp_path, "focalnet_tiny_srf")
    with pytest.raises(CheckpointError, match="are not those of semantic_fpn on focalnet_tiny_srf"):
        load_segmenter(run, options={"embed_dim": 32})
