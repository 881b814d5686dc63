"""A user's own images: from scratch, small, or from trained weights."""

from dataclasses import replace

from foveal.data.transforms import Augmentation
from foveal.recipes.config import ClassificationConfig
from foveal.recipes.imagenet import BLENDS
from foveal.train.config import TrainConfig


def folder(model: str) -> ClassificationConfig:
    """Any images, from random weights; what `foveal train` does without a recipe.

    Command: `foveal train --model NAME --data FOLDER --output DIR`. Time and score depend on the
    images; trained weights (`--pretrained`, which takes `finetune` instead) reach a score in far
    fewer epochs.
    """
    return ClassificationConfig(recipe="folder", model=model)


def finetune(model: str) -> ClassificationConfig:
    """A user's images, from trained weights: lower rates for the earlier layers.

    Command: `foveal train --recipe finetune --model NAME --pretrained --data FOLDER --output DIR`,
    or `--checkpoint DIR_OR_FILE`; `--frozen-stages 2` or `--head-only` hold more of it. Time and
    score depend on the images.
    """
    train = TrainConfig(
        epochs=30, lr=5e-4, min_lr=1e-6, layer_decay=0.75, warmup_epochs=3, clip_grad=1.0
    )
    return ClassificationConfig(recipe="finetune", model=model, drop_path_rate=0.1, train=train)


def small(model: str) -> ClassificationConfig:
    """Images of 32 to 96 pixels, from scratch.

    Command: `foveal train --recipe small --model NAME --options.stem_stride 2 --data FOLDER
    --output DIR`. Time: minutes to hours; `benchmarks/results` has measured ones.
    """
    train = TrainConfig(
        epochs=30,
        batch_size=256,
        lr=2e-3,
        min_lr=1e-5,
        weight_decay=0.05,
        warmup_epochs=2,
        clip_grad=1.0,
    )
    return ClassificationConfig(
        recipe="small",
        model=model,
        image_size=64,
        crop_pct=1.0,
        drop_path_rate=0.05,
        augmentation=Augmentation(
            scale=(0.25, 1.0), color_jitter=0.0, auto_augment="rand-m5-mstd0.5-inc1"
        ),
        mixing=replace(BLENDS, mixup=0.2, probability=0.5),
        train=train,
    )
