"""What a training run can be told."""

from dataclasses import dataclass
from typing import Literal

from foveal.errors import OptionError

Precision = Literal["no", "bf16", "fp16"]
Schedule = Literal["cosine", "steps", "poly"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, optimisation and machinery of a run.

    Attributes:
        epochs: passes over the training images.
        max_steps: stop after so many steps, should that come first.
        batch_size: images a process and micro-batch.
        accumulate: micro-batches a step of the optimiser.
        lr: peak learning rate of AdamW, for `lr_batch_size` images a step if that is given.
        lr_batch_size: scale `lr` by the images of a step over this number; None for `lr` as it is.
        schedule: of the learning rate after its rise: "cosine" to `min_lr`, "steps" of a tenth at
            `lr_steps`, or "poly", a power of the share of the run that is left.
        min_lr: learning rate at the end of the cosine.
        lr_steps: shares of the run at which "steps" come, rising, in (0, 1).
        lr_power: of "poly".
        weight_decay: of matrices and kernels; biases and norms have none.
        betas: AdamW's decay rates of its two moments.
        layer_decay: factor of the learning rate from each layer to the one before it; None for 1.
        warmup_epochs: linear rise of the learning rate, at most half of the run.
        clip_grad: greatest norm of the gradient, None for no limit.
        ema_decay: of the averaged weights that are judged and written; None for no average.
        seed: of the weights, the order and the random transforms.
        workers: processes that load images.
        threads: of a process on the CPU, None for PyTorch's choice.
        mixed_precision: "no" (float32), "bf16" or "fp16".
        channels_last: memory format of weights and images.
        compile: put the network through torch.compile.
        grad_checkpointing: keep only the blocks' inputs for the backward pass.
        checkpoint_every: steps between two states to go on from, beside the end of each epoch.
        keep_states: how many of the newest of them stay.
        log_every: steps between two lines of metrics.jsonl.
        tensorboard: write TensorBoard's files into the folder `tensorboard`, too.
    """

    epochs: int = 30
    max_steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    lr: float = 1e-3
    lr_batch_size: int | None = None
    schedule: Schedule = "cosine"
    min_lr: float = 1e-6
    lr_steps: tuple[float, ...] = (8 / 12, 11 / 12)
    lr_power: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    layer_decay: float | None = None
    warmup_epochs: float = 2.0
    clip_grad: float | None = 5.0
    ema_decay: float | None = None
    seed: int = 0
    workers: int = 2
    threads: int | None = None
    mixed_precision: Precision = "no"
    channels_last: bool = False
    compile: bool = False
    grad_checkpointing: bool = False
    checkpoint_every: int = 500
    keep_states: int = 1
    log_every: int = 1
    tensorboard: bool = False

    def __post_init__(self) -> None:
        positive = ("epochs", "batch_size", "accumulate", "checkpoint_every", "keep_states")
        for name in (*positive, "log_every"):
            _require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        for name in ("workers", "weight_decay", "min_lr", "warmup_epochs", "seed"):
            _require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        for name in ("lr", "lr_power"):
            _require(getattr(self, name) > 0, name, "more than 0", getattr(self, name))
        steps = self.lr_steps
        rising = list(steps) == sorted(set(steps)) and all(0 < step < 1 for step in steps)
        _require(rising, "lr_steps", "rising shares of the run between 0 and 1", list(steps))
        for name in ("max_steps", "threads", "lr_batch_size"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, "1 or more", value)
        for name in ("layer_decay", "ema_decay"):
            value = getattr(self, name)
            _require(value is None or 0 < value <= 1, name, "more than 0 and at most 1", value)
        clip, threads = self.clip_grad, self.threads
        _require(clip is None or clip > 0, "clip_grad", "more than 0, or null for no limit", clip)
        _require(threads is None or threads <= 1024, "threads", "1 to 1024", threads)
        # NumPy takes no more.
        _require(self.seed < 2**32, "seed", "below 2**32", self.seed)
        _require(
            all(0 <= beta < 1 for beta in self.betas), "betas", "0 or more and below 1", self.betas
        )

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        full = self.epochs * steps_per_epoch
        return full if self.max_steps is None else min(full, self.max_steps)

    def peak_lr(self, processes: int = 1) -> float:
        """The peak learning rate with so many processes."""
        if self.lr_batch_size is None:
            return self.lr
        return self.lr * self.batch_size * self.accumulate * processes / self.lr_batch_size


def _require(allowed: bool, name: str, range_: str, value: object) -> None:
    if not allowed:
        raise OptionError(f"{name} is {range_}, got {value}.")
