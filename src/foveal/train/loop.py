"""The training loop: steps, evaluation, checkpoints, resuming."""

import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from foveal.errors import FovealError, MissingExtraError
from foveal.train.checkpoint import write_weights
from foveal.train.config import TrainConfig
from foveal.train.optimization import create_optimizer, create_schedule
from foveal.train.progress import TrainProgress
from foveal.train.run_folder import RunFolder
from foveal.train.task import Task

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class RunState:
    """How far a run is; saved and restored with its tensors."""

    step: int = 0
    epoch: int = 0
    best_score: float = -math.inf
    scores: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return vars(self).copy()

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        vars(self).update(values)


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        steps: optimiser steps, those before a resume included.
        epochs: finished epochs, likewise.
        best_score: of the best checkpoint.
        scores: the last evaluation's figures.
        seconds: wall time of this call.
    """

    steps: int
    epochs: int
    best_score: float
    scores: Mapping[str, float]
    seconds: float


class NonFiniteLossError(FovealError):
    """The loss became infinite or not a number."""


class Trainer:
    """One run of one model on one task, on every device that accelerate was started with.

    Args:
        model: is trained in place.
        task: loss and figures.
        loaders: batches to train on and to evaluate; where dataset or sampler have `set_epoch`,
            it is called before each epoch.
        config: length and optimisation.
        folder: prepared already.
        metadata: goes into every checkpoint, plain values only.
        show_progress: bar and lines on standard error.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        loaders: tuple[DataLoader[Any], DataLoader[Any]],
        config: TrainConfig,
        folder: RunFolder,
        *,
        metadata: Mapping[str, Any] | None = None,
        show_progress: bool = True,
    ):
        self.task = task
        self.config = config
        self.folder = folder
        self.metadata = dict(metadata or {})
        self.state = RunState()
        self.accelerator = create_accelerator(config)
        self.model, self.optimizer, self.train_loader, self.eval_loader = self.accelerator.prepare(
            model, create_optimizer(model, config), *loaders
        )
        self.steps_per_epoch = len(self.train_loader)
        self.schedule = create_schedule(self.optimizer, config, self.steps_per_epoch)
        self.accelerator.register_for_checkpointing(self.state)
        self.show_progress = show_progress and self.accelerator.is_main_process

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.total_steps(self.steps_per_epoch)

    def fit(self, *, resume: bool = False) -> TrainResult:
        """Train to the end.

        Args:
            resume: go on from the newest state in the folder, if there is one.

        Raises:
            NonFiniteLossError: the loss became infinite or not a number.
        """
        if resume:
            self._restore()
        start = time.perf_counter()
        bar = TrainProgress(self.total_steps, self.state.step, show=self.show_progress)
        with cpu_threads(self.config.threads), bar as progress:
            while self.state.step < self.total_steps:
                self._train_epoch(progress)
                self._finish_epoch(progress)
        seconds = time.perf_counter() - start
        state = self.state
        return TrainResult(state.step, state.epoch, state.best_score, state.scores, seconds)

    def evaluate(self) -> dict[str, float]:
        """The task's figures over the evaluation images of all processes."""
        self.model.eval()
        meter = self.task.meter()
        with torch.inference_mode():
            for batch in self.eval_loader:
                outputs = self.task.predict(self.model, batch)
                gathered: Any = self.accelerator.gather_for_metrics(outputs)
                meter.update(gathered)
        return meter.scores()

    def _train_epoch(self, progress: TrainProgress) -> None:
        self.model.train()
        # Accelerate hands it on to the sampler and the dataset; alone, it would count from 0 again.
        self.train_loader.set_epoch(self.state.epoch)
        images, mark = 0, time.perf_counter()
        for batch in self.train_loader:
            if self.state.step >= self.total_steps:
                break
            loss, lr = self._step(batch)
            images += self.task.count(batch) * self.accelerator.num_processes
            speed = images / (time.perf_counter() - mark)
            progress.step(loss=loss, lr=lr, images_per_second=speed)
            if self.state.step % self.config.log_every == 0:
                self._log(step=self.state.step, loss=loss, lr=lr, images_per_second=speed)

    def _step(self, batch: Mapping[str, Any]) -> tuple[float, float]:
        """One step of the optimiser; its loss and learning rate."""
        self.schedule.step_update(self.state.step)
        with self.accelerator.autocast():
            loss = self.task.loss(self.model, batch)
        value = loss.item()
        self._require_finite(value)
        self.accelerator.backward(loss)
        if self.config.clip_grad is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.step += 1
        return value, self.optimizer.param_groups[0]["lr"]

    def _finish_epoch(self, progress: TrainProgress) -> None:
        """Evaluate, and keep what the epoch came to."""
        state = self.state
        state.epoch += 1
        state.scores = self.evaluate()
        score = state.scores[self.task.best_score]
        best = score > state.best_score
        state.best_score = max(score, state.best_score)
        self._log(step=state.step, epoch=state.epoch, **state.scores)
        self._save(best)
        progress.epoch(state.epoch, self.config.epochs, state.scores, best)

    def _save(self, best: bool) -> None:
        """The weights, and the state to go on from; older states are then needless."""
        state = self.state
        weights: Any = self.accelerator.get_state_dict(self.model)
        if self.accelerator.is_main_process:
            written = {
                **self.metadata,
                "metrics": dict(state.scores),
                "step": state.step,
                "epoch": state.epoch,
            }
            if best:
                write_weights(self.folder.best, weights, written)
            write_weights(self.folder.last, weights, written)
        try:
            self.accelerator.save_state(str(self.folder.states / "partial"))
        except (OSError, RuntimeError) as error:
            raise FovealError(
                f"Cannot write the state of the run to {self.folder.states}: {error}; make room, "
                "then go on with --resume."
            ) from error
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self._publish_state()

    def _publish_state(self) -> None:
        """Give the state just written its name, so that a crash leaves the old one or the new."""
        target = self.folder.state_at(self.state.step)
        if target.exists():
            shutil.rmtree(target)
        (self.folder.states / "partial").rename(target)
        for older in self.folder.states.glob("step_*"):
            if older != target:
                shutil.rmtree(older)

    def _restore(self) -> None:
        saved = self.folder.latest_state()
        if saved is None:
            self.folder.clear()
            return
        try:
            self.accelerator.load_state(str(saved))
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            raise FovealError(
                f"The state in {saved} does not fit this run ({str(error).splitlines()[0]}); "
                "resume with the model and options it was started with, or use --overwrite."
            ) from error
        if self.accelerator.is_main_process:
            self.folder.forget_after(self.state.step)

    def _require_finite(self, loss: float) -> None:
        if math.isfinite(loss):
            return
        last = self.folder.last
        saved = f"the last good checkpoint is {last}" if last.exists() else "nothing was saved yet"
        raise NonFiniteLossError(
            f"The loss became {loss} at step {self.state.step + 1}; {saved}. "
            f"Try a learning rate below {self.config.lr:g} or a longer warm-up."
        )

    def _log(self, **record: Any) -> None:
        if self.accelerator.is_main_process:
            self.folder.log(**record)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """PyTorch with `count` threads on the CPU inside; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def create_accelerator(config: TrainConfig) -> "Accelerator":
    """Accelerate's handle on devices and precision.

    Raises:
        MissingExtraError: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import set_seed
    except ImportError as error:
        raise MissingExtraError("accelerate", "train") from error
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    set_seed(config.seed, device_specific=True)
    return accelerator
