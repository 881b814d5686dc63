"""The loop: it learns, it saves, it goes on where it stopped, and it stops when it should."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from foveal.errors import CheckpointError, FovealError
from foveal.tasks.classification import Classification
from foveal.train.checkpoint import read_metadata, write_weights
from foveal.train.config import TrainConfig
from foveal.train.loop import NonFiniteLossError, Trainer
from foveal.train.optimization import create_schedule
from foveal.train.run_folder import RunFolder

CONFIG = TrainConfig(epochs=4, batch_size=8, lr=1e-2, warmup_epochs=0.5, workers=0, log_every=2)


class Points(Dataset[dict[str, Any]]):
    """Points of two classes, apart by their sign; each epoch adds its own noise."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Any]:
        noise = torch.Generator().manual_seed(1000 * self.epoch + index)
        sign = 2 * (index % 2) - 1
        return {"image": sign + torch.randn(4, generator=noise) * 0.3, "label": index % 2}


class StopsAt(Classification):
    """Is interrupted at a step, as by Ctrl-C."""

    def __init__(self, step: int, loss: float | None = None):
        super().__init__(2)
        self.left = step
        self.broken_loss = loss

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.left -= 1
        if self.left == 0 and self.broken_loss is None:
            raise KeyboardInterrupt
        loss = super().loss(model, batch)
        return loss * self.broken_loss if self.left == 0 and self.broken_loss else loss


def trainer(root: Path, config: TrainConfig = CONFIG, task: Classification | None = None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 2))
    loaders = (DataLoader(Points(), batch_size=8), DataLoader(Points(), batch_size=8))
    folder = RunFolder(root)
    folder.require_usable(resume=True)
    return Trainer(
        model,
        task or Classification(2),
        loaders,
        config,
        folder,
        metadata={"model": "points"},
        show_progress=False,
    )


def lines(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


def test_it_learns_and_leaves_what_it_promises(tmp_path: Path):
    result = trainer(tmp_path).fit()
    assert (result.steps, result.epochs, result.best_score) == (16, 4, 100)
    assert {p.name for p in tmp_path.iterdir()} == {
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "state",
    }
    metadata = read_metadata(tmp_path / "last.safetensors")
    assert (metadata["model"], metadata["epoch"], metadata["step"]) == ("points", 4, 16)
    assert metadata["metrics"]["top1"] == 100
    steps = [line for line in lines(tmp_path) if "lr" in line]
    assert [line["step"] for line in steps] == list(range(2, 17, 2))
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert [line["epoch"] for line in lines(tmp_path) if "epoch" in line] == [1, 2, 3, 4]


@pytest.mark.parametrize("step", [6, 9, 13])
def test_a_resumed_run_equals_the_unbroken_one(tmp_path: Path, step: int):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer(whole).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(broken, task=StopsAt(step)).fit()
    result = trainer(broken).fit(resume=True)
    assert result.steps == 16
    expected, got = (load_file(root / "last.safetensors") for root in (whole, broken))
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert [line["step"] for line in lines(whole)] == [line["step"] for line in lines(broken)]


def test_resuming_nothing_starts_afresh(tmp_path: Path):
    assert trainer(tmp_path).fit(resume=True).steps == 16


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path):
    trainer(tmp_path).fit()
    before = (tmp_path / "last.safetensors").read_bytes()
    assert trainer(tmp_path).fit(resume=True).best_score == 100
    assert (tmp_path / "last.safetensors").read_bytes() == before


def test_a_state_of_another_model_is_refused(tmp_path: Path):
    trainer(tmp_path).fit()
    other = trainer(tmp_path)
    other.model[0] = nn.Linear(4, 8)
    with pytest.raises(FovealError, match="does not fit this run"):
        other.fit(resume=True)


def test_max_steps_ends_the_run_with_a_checkpoint(tmp_path: Path):
    result = trainer(tmp_path, replace(CONFIG, max_steps=6)).fit()
    assert result.steps == 6
    assert read_metadata(tmp_path / "last.safetensors")["step"] == 6


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, broken: float):
    with pytest.raises(NonFiniteLossError, match=r"at step 6; the last good .*last\.safetensors"):
        trainer(tmp_path, task=StopsAt(6, broken)).fit()
    weights = load_file(tmp_path / "last.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_the_learning_rate_rises_and_falls():
    config = replace(CONFIG, epochs=10, warmup_epochs=2.0, lr=1.0, min_lr=0.0)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = create_schedule(optimizer, config, steps_per_epoch=10)
    rates = []
    for step in range(100):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert max(rates) == pytest.approx(1.0) and rates.index(max(rates)) == 20
    assert 0 < rates[0] < 0.1 and 0 < rates[-1] < 0.01
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_a_folder_in_use_is_refused_and_foreign_files_are_kept(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.require_usable()
    (folder.root / "thesis.txt").write_text("mine")
    folder.last.write_text("x")
    with pytest.raises(FovealError, match="in use"):
        folder.require_usable()
    folder.require_usable(resume=True)
    folder.require_usable(overwrite=True)
    folder.clear()
    assert [path.name for path in folder.root.iterdir()] == ["thesis.txt"]


def test_an_unusable_output_is_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(FovealError, match="Cannot write to the output folder"):
            RunFolder(path).require_usable()


def test_metadata_of_a_foreign_or_damaged_file(tmp_path: Path):
    write_weights(tmp_path / "a.safetensors", {"w": torch.ones(3)}, {})
    assert read_metadata(tmp_path / "a.safetensors") == {}
    (tmp_path / "b.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_metadata(tmp_path / "b.safetensors")


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"lr": 0.0}, {"max_steps": 0}, {"workers": -1}])
def test_impossible_settings(wrong: dict[str, Any]):
    with pytest.raises(FovealError, match=next(iter(wrong))):
        TrainConfig(**wrong)
