"""The training loop: steps, evaluation, checkpoints, resuming."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from foveal.errors import FovealError, MissingExtraError
from foveal.train.batches import Batches
from foveal.train.checkpoint import write_weights
from foveal.train.config import TrainConfig
from foveal.train.journal import Journal
from foveal.train.optimization import create_average, create_optimizer, create_schedule
from foveal.train.progress import TrainProgress
from foveal.train.run_folder import RunFolder
from foveal.train.state import RunState, load_state, save_state
from foveal.train.stopping import StopRequest
from foveal.train.task import GatheredMeter, Meter, Task

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrainResult:
    """What a run came to.

    Attributes:
        steps: optimiser steps, those before a resume included.
        epochs: finished epochs, likewise.
        best_score: of the best checkpoint.
        scores: the last evaluation's figures.
        seconds: wall time of this call.
        finished: False if it was asked to stop before the end.
    """

    steps: int
    epochs: int
    best_score: float
    scores: Mapping[str, float]
    seconds: float
    finished: bool = True


class NonFiniteLossError(FovealError):
    """The loss became infinite or not a number."""


class Trainer:
    """One run of one model on one task, on every device that accelerate was started with.

    Args:
        model: is trained in place.
        task: loss and figures.
        loaders: this process's batches to train on and to evaluate; see `Batches`.
        config: length and optimisation.
        folder: prepared already.
        metadata: goes into every checkpoint, plain values only.
        show_progress: bar and lines on standard error.
        held: parts of the model that stay in eval mode, frozen norms among them.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        loaders: tuple[Any, Any],
        config: TrainConfig,
        folder: RunFolder,
        *,
        metadata: Mapping[str, Any] | None = None,
        show_progress: bool = True,
        held: Sequence[nn.Module] = (),
    ):
        self.task, self.config, self.folder = task, config, folder
        self.metadata = dict(metadata or {})
        self.held = held
        self.state = RunState()
        self.accelerator = accelerator = create_accelerator(config)
        processes = accelerator.num_processes
        if config.ema_decay is not None and accelerator.distributed_type == "FSDP":
            raise FovealError(
                "Averaged weights are kept whole, which FSDP does not allow; leave ema_decay out, "
                "or train without FSDP."
            )
        self.average = create_average(model, config, accelerator.device)
        _equip(model, config)
        optimizer = create_optimizer(model, config, processes)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        memory = {"channels_last": config.channels_last}
        self.batches, self.eval_batches = (
            Batches(loader, accelerator.device, **memory) for loader in loaders
        )
        self.batches_per_epoch = _whole(len(self.batches), config.accumulate)
        self.steps_per_epoch = math.ceil(self.batches_per_epoch / config.accumulate)
        self.schedule = create_schedule(self.optimizer, config, self.steps_per_epoch, processes)
        averages = [] if self.average is None else [self.average]
        accelerator.register_for_checkpointing(self.state, *averages)
        self.show_progress = show_progress and accelerator.is_main_process

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        return self.config.total_steps(self.steps_per_epoch)

    def fit(self, *, resume: bool = False) -> TrainResult:
        """Train to the end, or until SIGTERM, which saves the state first.

        Args:
            resume: go on from the newest state in the folder, if there is one.

        Raises:
            NonFiniteLossError: the loss became infinite or not a number.
        """
        place = self._restore() if resume else None
        start, state = time.perf_counter(), self.state
        main = self.accelerator.is_main_process
        bar = TrainProgress(self.total_steps, state.step, show=self.show_progress)
        with ExitStack() as stack:
            stack.enter_context(cpu_threads(self.config.threads))
            self.journal = stack.enter_context(Journal(self.folder, self.config, write=main))
            self.stop = stack.enter_context(StopRequest())
            self.progress = stack.enter_context(bar)
            while state.step < self.total_steps and not self._asked_to_stop():
                self._train_epoch(place)
                place = None
        return TrainResult(
            state.step,
            state.epoch,
            state.best_score,
            state.scores,
            time.perf_counter() - start,
            state.step >= self.total_steps,
        )

    def evaluate(self) -> dict[str, float]:
        """The task's figures over the evaluation images of all processes."""
        model: Any = self._judged_model()
        model.eval()
        meter = self.task.meter()
        with torch.inference_mode():
            for batch in self.eval_batches.epoch(0):
                with self.accelerator.autocast():
                    outputs = self.task.predict(model, batch)
                meter.update(outputs)
        if self.accelerator.num_processes > 1:
            self._join(meter)
        return meter.scores()

    def _join(self, meter: Meter | GatheredMeter) -> None:
        """Make the meter stand for the images of all processes, on each of them."""
        if isinstance(meter, GatheredMeter):
            from accelerate.utils import gather_object

            meter.merge(gather_object([meter.state()]))
            return
        sums = meter.sums().to(self.accelerator.device)
        total: Any = self.accelerator.reduce(sums, reduction="sum")
        meter.take_sums(total.cpu())

    def _judged_model(self) -> nn.Module:
        """The averaged model or the trained one, with the first process's buffers on all."""
        model: Any = self.model if self.average is None else self.average.module
        if not isinstance(self.model, DistributedDataParallel):
            return model
        # A forward pass of DDP would bring them, too, but waits for processes without images.
        plain: nn.Module = self.accelerator.unwrap_model(model)
        for buffer in plain.buffers():
            torch.distributed.broadcast(buffer, src=0)
        return plain

    def _train_epoch(self, place: dict[str, Any] | None) -> None:
        """The rest of an epoch; its evaluation, unless the run is asked to stop before."""
        state, config = self.state, self.config
        self._train_mode()
        left = self.batches_per_epoch - state.batch
        batches = self.batches.epoch(state.epoch, state.batch, place)
        images, mark = 0, time.perf_counter()
        for group in _groups(islice(batches, left), config.accumulate):
            loss, lr = self._step(group)
            state.batch += len(group)
            images += sum(map(self.task.count, group)) * self.accelerator.num_processes
            speed = images / (time.perf_counter() - mark)
            self.progress.step(loss=loss, lr=lr, images_per_second=speed)
            self.journal.step(step=state.step, loss=loss, lr=lr, images_per_second=speed)
            if state.step >= self.total_steps or state.batch >= self.batches_per_epoch:
                break
            stopping = self._asked_to_stop()
            if stopping or state.step % config.checkpoint_every == 0:
                self.journal.flush()
                if stopping:
                    self._save_weights(best=False)
                self._save_state()
            if stopping:
                return
        self._finish_epoch()

    def _step(self, group: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
        """One step of the optimiser; its loss and learning rate."""
        self.schedule.step_update(self.state.step)
        value = 0.0
        for number, batch in enumerate(group, start=1):
            last = number == len(group)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast(), _one_value_in_words():
                    loss = self.task.loss(self.model, batch) / len(group)
                value += loss.item()
                self._require_finite(value, batch)
                self.accelerator.backward(loss)
        if self.config.clip_grad is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.state.step += 1
        if self.average is not None:
            self.average.update(self.accelerator.unwrap_model(self.model), self.state.step)
        # With layer decay the peak belongs to the last group, the classifier's.
        return value, max(group["lr"] for group in self.optimizer.param_groups)

    def _finish_epoch(self) -> None:
        """Evaluate, and keep what the epoch came to; `max_steps` may end within one."""
        state = self.state
        if state.batch >= self.batches_per_epoch:
            state.epoch, state.batch = state.epoch + 1, 0
        scores = self.evaluate()
        if not all(map(math.isfinite, scores.values())):
            raise self._non_finite(f"The evaluation after step {state.step} gave {scores}")
        state.scores = scores
        score = state.scores[self.task.best_score]
        best = score > state.best_score
        state.best_score = max(score, state.best_score)
        self.journal.evaluation(epoch=state.epoch, **state.scores)
        self._save_weights(best)
        self._save_state()
        self.progress.evaluation(self._reached(), state.scores, best)

    def _reached(self) -> str:
        """How far the run has come, in steps where they are what ends it."""
        state, epochs = self.state, self.config.epochs
        if self.total_steps < epochs * self.steps_per_epoch:
            return f"step {state.step}/{self.total_steps}"
        return f"epoch {state.epoch}/{epochs}"

    def _save_weights(self, best: bool) -> None:
        """The weights as they are used: averaged ones where there is an average."""
        state, average = self.state, self.average
        trained: Any = self.accelerator.get_state_dict(self.model)
        weights = trained if average is None else average.module.state_dict()
        if not self.accelerator.is_main_process:
            return
        written = {
            **self.metadata,
            "metrics": dict(state.scores),
            "step": state.step,
            "epoch": state.epoch,
        }
        if best:
            write_weights(self.folder.best, weights, written)
        write_weights(self.folder.last, weights, written)

    def _save_state(self) -> None:
        keep = self.config.keep_states
        save_state(self.accelerator, self.folder, self.state.step, self.batches, keep)

    def _restore(self) -> dict[str, Any] | None:
        """Go back to the newest state; the loader's place in mid-epoch."""
        place = load_state(self.accelerator, self.folder)
        if self.accelerator.is_main_process:
            if place is None:
                self.folder.clear_results()
            else:
                self.folder.forget_after(self.state.step)
        self.accelerator.wait_for_everyone()
        return place

    def _train_mode(self) -> None:
        self.model.train()
        for part in self.held:
            part.eval()

    def _asked_to_stop(self) -> bool:
        """Whether any process was; all of them learn it at the same step."""
        if self.accelerator.num_processes == 1:
            return self.stop.asked
        if self.stop.asked:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    def _require_finite(self, loss: float, batch: Mapping[str, Any]) -> None:
        if math.isfinite(loss):
            return
        names = self.task.names(batch)
        images = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise self._non_finite(f"The loss became {loss} at step {self.state.step + 1}, on {images}")

    def _non_finite(self, what: str) -> NonFiniteLossError:
        last = self.folder.latest_state() or self.folder.last
        saved = f"the last good checkpoint is {last}" if last.exists() else "nothing was saved yet"
        return NonFiniteLossError(
            f"{what}; {saved}. Try a learning rate below {self.config.lr:g} or a longer warm-up."
        )


@contextmanager
def _one_value_in_words() -> Iterator[None]:
    """PyTorch's refusal to normalise over a single value, as a sentence."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise FovealError(
            "The network normalises over the batch, and one image at this size leaves it a single "
            "value per channel; train with a batch size of 2 or more, or with larger images."
        ) from error


def _equip(model: nn.Module, config: TrainConfig) -> None:
    """What the configuration asks of the network itself."""
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if config.grad_checkpointing:
        enable: Any = getattr(model, "set_grad_checkpointing", None)
        if enable is None:
            raise FovealError(
                f"{type(model).__name__} has no gradient checkpointing; leave it switched off."
            )
        enable(True)
    if config.compile:
        model.compile()


def _whole(batches: int, accumulate: int) -> int:
    """The batches of an epoch that fill whole steps; all of them if they do not fill one."""
    return batches - batches % accumulate if batches >= accumulate else batches


def _groups(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` batches, the last one of what is left."""
    while group := list(islice(batches, size)):
        yield group


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
    # Told that there are only CPUs, accelerate lets torchrun's processes talk through gloo.
    cpu = torch.accelerator.current_accelerator(check_available=True) is None
    accelerator = Accelerator(mixed_precision=config.mixed_precision, cpu=cpu)
    set_seed(config.seed, device_specific=True)
    return accelerator
