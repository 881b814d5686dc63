"""Optimiser and learning-rate schedule, from timm."""

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn

from foveal.train.config import TrainConfig


def create_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, without decay for biases, norms and what the model exempts."""
    return create_optimizer_v2(
        model,
        opt="adamw",
        lr=config.lr,
        weight_decay=config.weight_decay,
        betas=config.betas,
    )


def create_schedule(
    optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int
) -> CosineLRScheduler:
    """Linear warm-up, then a cosine to `min_lr` at the last step, as a function of the step."""
    total = config.total_steps(steps_per_epoch)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, total - warmup),
        lr_min=min(config.min_lr, config.lr),
        warmup_t=warmup,
        warmup_lr_init=config.lr / max(1, warmup),
        warmup_prefix=True,
        t_in_epochs=False,
    )
