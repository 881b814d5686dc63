"""What a training run can be told."""

from dataclasses import dataclass
from typing import Literal

from foveal.errors import OptionError

Precision = Literal["no", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Length, optimisation and machinery of a run.

    Attributes:
        epochs: passes over the training images.
        max_steps: stop after so many steps, should that come first.
        batch_size: images a step and process.
        lr: peak learning rate of AdamW.
        min_lr: learning rate at the end of the cosine.
        weight_decay: of matrices and kernels; biases and norms have none.
        betas: AdamW's decay rates of its two moments.
        warmup_epochs: linear rise of the learning rate, at most half of the run.
        clip_grad: greatest norm of the gradient, None for no limit.
        seed: of the weights, the order and the random transforms.
        workers: processes that load images.
        threads: of a process on the CPU, None for PyTorch's choice.
        mixed_precision: "no", "bf16" or "fp16".
        log_every: steps between two lines of metrics.jsonl.
    """

    epochs: int = 30
    max_steps: int | None = None
    batch_size: int = 32
    lr: float = 1e-3
    min_lr: float = 1e-6
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_epochs: float = 2.0
    clip_grad: float | None = 5.0
    seed: int = 0
    workers: int = 2
    threads: int | None = None
    mixed_precision: Precision = "no"
    log_every: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "log_every"):
            _require(getattr(self, name) >= 1, name, "1 or more", getattr(self, name))
        for name in ("workers", "weight_decay", "min_lr", "warmup_epochs", "seed"):
            _require(getattr(self, name) >= 0, name, "0 or more", getattr(self, name))
        _require(self.lr > 0, "lr", "more than 0", self.lr)
        for name in ("max_steps", "threads"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, "1 or more", value)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run."""
        full = self.epochs * steps_per_epoch
        return full if self.max_steps is None else min(full, self.max_steps)


def _require(allowed: bool, name: str, range_: str, value: object) -> None:
    if not allowed:
        raise OptionError(f"{name} is {range_}, got {value}.")
