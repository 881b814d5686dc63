"""The loop with a segmenter: it learns, judges by mean IoU, and leaves weights that load again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset

from foveal.tasks.segmentation.task import Segmentation
from foveal.train.checkpoint import read_metadata
from foveal.train.config import TrainConfig
from foveal.train.loop import Trainer
from foveal.train.run_folder import RunFolder
from tests.tasks.segmentation.small_segmenters import small_segmenter


class Discs(Dataset[dict[str, Any]]):
    """A bright disc, of class 1, on a dark ground, of class 0; a frame that does not count."""

    def __init__(self, count: int, size: tuple[int, int]):
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        centre = torch.rand(2, generator=generator) * 0.5 + 0.25
        height, width = self.size
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        distance = (rows - centre[0] * height) ** 2 + (columns - centre[1] * width) ** 2
        label = (distance < (height / 4) ** 2).long()
        image = (2.0 * label - 0.5).expand(3, -1, -1)
        image = image + 0.1 * torch.randn(3, height, width, generator=generator)
        label[:2] = 255
        return {"image": image, "label": label, "index": index, "name": f"disc {index}"}


def test_a_segmenter_learns_in_the_loop(tmp_path: Path):
    segmenter = small_segmenter("semantic_fpn", num_classes=2, dropout=0.0)
    loaders = (
        DataLoader(Discs(16, (64, 64)), batch_size=4),
        DataLoader(Discs(3, (50, 70)), batch_size=1),
    )
    config = TrainConfig(epochs=5, batch_size=4, lr=5e-3, warmup_epochs=0.5, layer_decay=0.9)
    folder = RunFolder(tmp_path)
    folder.require_usable(resume=True)
    trainer = Trainer(
        segmenter, Segmentation(2), loaders, config, folder, metadata={}, show_progress=False
    )
    result = trainer.fit()
    assert result.best_score > 80
    metrics = read_metadata(tmp_path / "best.safetensors")["metrics"]
    assert set(metrics) == {"miou", "macc", "aacc"}
    assert metrics["miou"] == pytest.approx(result.best_score)
    other = small_segmenter("semantic_fpn", num_classes=2)
    other.load_state_dict(load_file(tmp_path / "last.safetensors"))
    images = Discs(1, (50, 70))[0]["image"][None]
    with torch.inference_mode():
        assert torch.equal(other.eval()(images), segmenter.eval()(images))
