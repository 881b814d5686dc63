"""Optimiser, learning-rate schedule and averaged weights, from timm."""

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler, PolyLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn

from foveal.train.config import TrainConfig


def create_optimizer(
    model: nn.Module, config: TrainConfig, processes: int = 1
) -> torch.optim.Optimizer:
    """AdamW, without decay for biases, norms and what the model exempts; frozen weights stay out.

    With `layer_decay` the model's `group_matcher` says which layer a weight belongs to.
    """
    return create_optimizer_v2(
        model,
        opt="adamw",
        lr=config.peak_lr(processes),
        weight_decay=config.weight_decay,
        layer_decay=config.layer_decay,
        betas=config.betas,
    )


def create_schedule(
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    steps_per_epoch: int,
    processes: int = 1,
) -> Scheduler:
    """Linear warm-up, then the schedule to the last step, as a function of the step."""
    total = config.total_steps(steps_per_epoch)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    peak = config.peak_lr(processes)
    rise: dict[str, Any] = {
        "warmup_t": warmup,
        "warmup_lr_init": peak / max(1, warmup),
        "t_in_epochs": False,
    }
    if config.schedule == "steps":
        # Shares of the whole run, its warm-up included; timm takes each a step early.
        at = [round(share * total) + 1 for share in config.lr_steps]
        rise["warmup_prefix"] = False
        return MultiStepLRScheduler(optimizer, decay_t=at, decay_rate=0.1, **rise)
    # One step is at the peak whatever comes after it, and of 1 timm says that it is pointless.
    rise |= {"t_initial": max(2, total - warmup), "warmup_prefix": True}
    if config.schedule == "poly":
        return PolyLRScheduler(optimizer, power=config.lr_power, lr_min=0.0, **rise)
    return CosineLRScheduler(optimizer, lr_min=min(config.min_lr, peak), **rise)


def create_average(
    model: nn.Module, config: TrainConfig, device: torch.device
) -> ModelEmaV3 | None:
    """The exponential moving average of the weights, whose decay rises from 0 at first."""
    if config.ema_decay is None:
        return None
    return ModelEmaV3(model, decay=config.ema_decay, use_warmup=True, device=device)
