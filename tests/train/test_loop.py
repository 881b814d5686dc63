"""The loop: it learns, it saves, it goes on where it stopped, and it stops when it should."""

import json
import math
import os
import resource
import signal
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
        image = sign + torch.randn(4, generator=noise) * 0.3
        return {"image": image, "label": index % 2, "index": index}


class StopsAt(Classification):
    """Is interrupted at a step, as by Ctrl-C."""

    def __init__(self, step: int, loss: float | None = None):
        super().__init__(2, image_names=[f"point {index}" for index in range(32)])
        self.left = step
        self.broken_loss = loss

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        self.left -= 1
        if self.left == 0 and self.broken_loss is None:
            raise KeyboardInterrupt
        loss = super().loss(model, batch)
        return loss * self.broken_loss if self.left == 0 and self.broken_loss else loss


def trainer(
    root: Path,
    config: TrainConfig = CONFIG,
    task: Classification | None = None,
    dropout: float = 0.2,
    batch_size: int = 8,
):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 2))
    loaders = (DataLoader(Points(), batch_size=batch_size), DataLoader(Points(), batch_size=8))
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
    steps = lines(tmp_path)
    assert [line["step"] for line in steps] == list(range(2, 17, 2))
    assert steps[-1]["loss"] < 0.5 * steps[0]["loss"]
    assert [line["epoch"] for line in lines(tmp_path) if "epoch" in line] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "options", [{}, {"checkpoint_every": 1}, {"checkpoint_every": 3, "ema_decay": 0.9}]
)
@pytest.mark.parametrize("step", [2, 6, 9, 15])
def test_a_resumed_run_equals_the_unbroken_one(tmp_path: Path, step: int, options: dict[str, Any]):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    config = replace(CONFIG, **options)
    trainer(whole, config).fit()
    with pytest.raises(KeyboardInterrupt):
        trainer(broken, config, task=StopsAt(step)).fit()
    result = trainer(broken, config).fit(resume=True)
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
    said = r"at step 6, on point \d+, .*; the last good .*step_000000004"
    with pytest.raises(NonFiniteLossError, match=said):
        trainer(tmp_path, task=StopsAt(6, broken)).fit()
    weights = load_file(tmp_path / "last.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_accumulated_batches_equal_one_large_batch(tmp_path: Path):
    config = replace(CONFIG, clip_grad=None)
    trainer(tmp_path / "whole", config, dropout=0.0, batch_size=8).fit()
    small = replace(config, batch_size=2, accumulate=4)
    trainer(tmp_path / "parts", small, dropout=0.0, batch_size=2).fit()
    expected, got = (load_file(tmp_path / p / "last.safetensors") for p in ("whole", "parts"))
    torch.testing.assert_close(got, expected)
    assert [r["step"] for r in lines(tmp_path / "parts")] == list(range(2, 17, 2))


def test_a_tail_that_fills_no_step_is_left_out(tmp_path: Path):
    run = trainer(tmp_path, replace(CONFIG, accumulate=3))
    assert (run.batches_per_epoch, run.steps_per_epoch) == (3, 1)
    assert run.fit().steps == 4


def test_averaged_weights_are_judged_and_written(tmp_path: Path):
    run = trainer(tmp_path, replace(CONFIG, ema_decay=0.5))
    run.fit()
    written = load_file(tmp_path / "last.safetensors")
    assert run.average is not None
    torch.testing.assert_close(written, dict(run.average.module.state_dict()))
    assert not torch.equal(written["0.weight"], run.model[0].weight)


def test_sigterm_saves_the_state_and_ends_the_run(tmp_path: Path):
    class Asked(StopsAt):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            if self.left == 1:
                os.kill(os.getpid(), signal.SIGTERM)
                self.left = 0
            return super().loss(model, batch)

    before = signal.getsignal(signal.SIGTERM)
    result = trainer(tmp_path / "run", task=Asked(6)).fit()
    assert (result.steps, result.finished) == (6, False)
    assert signal.getsignal(signal.SIGTERM) == before
    assert trainer(tmp_path / "run").fit(resume=True).finished
    trainer(tmp_path / "whole").fit()
    expected, got = (load_file(tmp_path / p / "last.safetensors") for p in ("whole", "run"))
    assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert [r["step"] for r in lines(tmp_path / "run")] == list(range(2, 17, 2))


def test_the_newest_states_stay(tmp_path: Path):
    trainer(tmp_path, replace(CONFIG, checkpoint_every=1, keep_states=3)).fit()
    kept = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert kept == [f"step_{step:09d}" for step in (14, 15, 16)]


def test_tensorboard_has_every_figure(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(tmp_path, replace(CONFIG, tensorboard=True)).fit()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("top1")] == [4, 8, 12, 16]


def test_a_full_disk_is_a_sentence(tmp_path: Path):
    """The limit on a file's size stands for a full disk: both fail while a file is written."""
    run = trainer(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
        with pytest.raises(FovealError, match=r"Cannot write .*"):
            run.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert trainer(tmp_path).fit(resume=True).steps == 16


def test_the_learning_rate_scales_with_the_images_of_a_step():
    config = replace(CONFIG, lr=1e-3, lr_batch_size=1024, batch_size=64, accumulate=2)
    assert config.peak_lr(processes=16) == pytest.approx(2e-3)


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


@pytest.mark.parametrize("schedule", ["steps", "poly"])
def test_other_ways_for_the_learning_rate_to_fall(schedule: Any):
    config = replace(
        CONFIG, epochs=10, warmup_epochs=2.0, lr=1.0, schedule=schedule, lr_steps=(0.6, 0.9),
        lr_power=0.9,
    )  # fmt: skip
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=config.lr)
    plan = create_schedule(optimizer, config, steps_per_epoch=10)
    rates = []
    for step in range(100):
        plan.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert 0 < rates[0] < 0.1 and rates[20] == pytest.approx(1.0)
    if schedule == "steps":
        # A tenth from so many of all steps on, the warm-up among them.
        assert rates[59] == pytest.approx(1.0) and rates[60] == pytest.approx(0.1)
        assert rates[89] == pytest.approx(0.1) and rates[90] == pytest.approx(0.01)
    else:
        left = [(1 - step / 80) ** 0.9 for step in range(80)]
        assert rates[20:] == pytest.approx(left)


def test_a_folder_in_use_is_refused_and_foreign_files_are_kept(tmp_path: Path):
    folder = RunFolder(tmp_path / "run")
    folder.require_usable()
    folder.root.mkdir()
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


def test_seeing_whether_a_folder_is_usable_leaves_nothing(tmp_path: Path):
    RunFolder(tmp_path / "new" / "run").require_usable()
    assert not list(tmp_path.iterdir())


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


@pytest.mark.parametrize("how", ["cut short", "empty", "junk", "missing"])
@pytest.mark.parametrize("pattern", ["custom*", "random*", "optimizer*", "loader*", "model*"])
def test_a_damaged_state_is_refused(tmp_path: Path, pattern: str, how: str):
    if (pattern, how) == ("loader*", "missing"):
        pytest.skip("loaders without a state of their own have none")
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, replace(CONFIG, checkpoint_every=3), StopsAt(4)).fit()
    (file,) = (tmp_path / "state").glob(f"*/{pattern}")
    whole = file.read_bytes()
    file.unlink()
    if how != "missing":
        damaged = {"cut short": whole[: len(whole) // 2], "empty": b"", "junk": b"junk" * 50}
        file.write_bytes(damaged[how])
    with pytest.raises(FovealError, match="step_000000003"):
        trainer(tmp_path).fit(resume=True)


class Harm:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def test_a_state_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    trainer(tmp_path / "run").fit()
    (file,) = (tmp_path / "run/state").glob("*/custom*")
    torch.save({"step": Harm()}, file)
    with pytest.raises(FovealError, match="missing or damaged"):
        trainer(tmp_path / "run").fit(resume=True)
    assert not Path("harm").exists()


def test_lines_that_are_none_are_dropped(tmp_path: Path):
    trainer(tmp_path).fit()
    before = lines(tmp_path)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"5\n[1]\n\xff\xfe\n")
    trainer(tmp_path).fit(resume=True)
    assert lines(tmp_path) == before


def test_the_loss_of_a_step_stays_beside_that_of_the_evaluation(tmp_path: Path):
    trainer(tmp_path / "each", replace(CONFIG, log_every=1)).fit()
    seen: list[float] = []

    class Watched(Classification):
        def loss(self, model: nn.Module, batch: Any) -> Tensor:
            loss = super().loss(model, batch)
            seen.append(loss.item())
            return loss

    trainer(tmp_path / "seen", replace(CONFIG, log_every=1), Watched(2)).fit()
    records = lines(tmp_path / "each")
    assert [record["loss"] for record in records] == seen
    judged = [record for record in records if "epoch" in record]
    assert len(judged) == 4 and all(record["val_loss"] != record["loss"] for record in judged)


def test_weights_that_give_no_number_are_not_kept(tmp_path: Path):
    class Nothing(Classification):
        def predict(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
            logits, labels = super().predict(model, batch)
            return logits * math.nan, labels

    with pytest.raises(NonFiniteLossError, match=r"evaluation after step 4 .* nothing was saved"):
        trainer(tmp_path, task=Nothing(2)).fit()
    assert not (tmp_path / "best.safetensors").exists()


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_of_a_step_or_two_is_at_the_peak_and_silent(
    steps: int, caplog: pytest.LogCaptureFixture
):
    config = TrainConfig(max_steps=steps, lr=0.5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = create_schedule(optimizer, config, 10)
    schedule.step_update(steps - 1)
    assert optimizer.param_groups[0]["lr"] == 0.5 and not caplog.records
