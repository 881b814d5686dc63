"""The model in the box: small, offline, and better than colours for forty photographs."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from foveal.tools.box import BOX, load_boxed, write_boxed
from foveal.tools.trained import load_trained
from foveal.train.checkpoint import read_metadata
from tests.cli.conftest import Foveal, foveal  # noqa: F401

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


def test_it_is_small_and_says_what_it_is() -> None:
    assert BOX.stat().st_size <= 10e6
    assert all(t.dtype == torch.float16 for t in load_file(BOX).values() if t.is_floating_point())
    trained = load_boxed()
    card = trained.card
    assert (card.model, len(card.classes), card.preprocessing.image_size) == (
        "efficientmod_xxs",
        100,
        64,
    )
    # Where its images lay on somebody's disk is nobody's business.
    assert set(card.data) == {"seed"}
    stated = f"{card.metrics['top1']:.1f} %"
    assert stated in (Path(__file__).parents[2] / "docs" / "box.md").read_text()


def test_predict_works_offline_and_says_with_what(
    foveal: Foveal,  # noqa: F811
    tmp_path: Path,
) -> None:
    skimage = pytest.importorskip("skimage", reason="scikit-image has the photograph")
    Image.fromarray(np.asarray(skimage.data.coffee())).save(tmp_path / "coffee.jpg")
    outcome = foveal("predict", tmp_path / "coffee.jpg")
    assert outcome.code == 0 and "the model in the box" in outcome.err
    assert len(outcome.out.splitlines()) == 6


def test_half_precision_changes_little(tmp_path: Path) -> None:
    trained = load_boxed()
    write_boxed(BOX, tmp_path / "again.safetensors")
    again = load_trained(tmp_path / "again.safetensors")
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(again.model(image), trained.model(image))
    assert read_metadata(tmp_path / "again.safetensors") == read_metadata(BOX)


@pytest.mark.timeout(300)
def test_forty_photographs(tmp_path: Path) -> None:
    """Judged by the last epoch, on crops that share no pixel with the training crops."""
    pytest.importorskip("skimage", reason="scikit-image has the photographs")
    from forty_photographs import main  # pyright: ignore[reportMissingImports]

    found, baseline = main(tmp_path)
    assert found >= 90
    assert found >= baseline + 10
