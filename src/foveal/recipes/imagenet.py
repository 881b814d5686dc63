"""The papers' own runs on ImageNet: from scratch, at 384 pixels, and with a teacher.

The scores to expect are the papers', which these functions were written after; nobody has run them
to the end with Foveal yet. Of what the papers share: AdamW, 300 epochs, cosine, RandAugment, mixup,
CutMix, random erasing, label smoothing, and 1e-3 for 1,024 images a step.
"""

from dataclasses import replace

from foveal.data.transforms import Augmentation
from foveal.errors import OptionError
from foveal.recipes.config import ClassificationConfig, Distillation
from foveal.tasks.mixing import Mixing
from foveal.train.config import TrainConfig

# RandAugment of two operations at magnitude 9 ± 0.5, the increasing set.
STRONG = Augmentation(
    scale=(0.08, 1.0),
    color_jitter=0.4,
    auto_augment="rand-m9-mstd0.5-inc1",
    random_erasing=0.25,
)
BLENDS = Mixing(mixup=0.8, cutmix=1.0)

_SHARED = TrainConfig(
    epochs=300,
    batch_size=128,
    lr=1e-3,
    lr_batch_size=1024,
    min_lr=1e-5,
    weight_decay=0.05,
    warmup_epochs=20,
    clip_grad=5.0,
    workers=8,
    mixed_precision="bf16",
    channels_last=True,
    log_every=50,
    checkpoint_every=1000,
)

# What a family's paper does otherwise.
_OWN = {
    "focalnet": {},
    "dat": {},
    "transnext": {"warmup_epochs": 5.0, "clip_grad": None},
    "cloformer": {"warmup_epochs": 5.0, "clip_grad": None},
    "efficientmod": {"warmup_epochs": 5.0, "clip_grad": None, "ema_decay": 0.9999},
}


def imagenet(model: str) -> ClassificationConfig:
    """ImageNet-1K from scratch at 224 pixels, as the network's paper trains it.

    Source: the experiments of FocalNet (arXiv 2203.11926), DAT++ (2309.01430), TransNeXt
    (2311.17132), CloFormer (2303.17803) and EfficientMod (2403.19963). Stochastic depth is the
    variant's own.
    Command: `torchrun --nproc-per-node 8 -m foveal.cli.main train --recipe imagenet --model NAME
    --data IMAGENET --output DIR`. Time: days on eight GPUs. Expected: the paper's top-1, which
    `foveal models NAME` shows.
    """
    own = _OWN.get(family_of(model), {})
    return ClassificationConfig(
        recipe="imagenet",
        model=model,
        augmentation=STRONG,
        mixing=BLENDS,
        train=replace(_SHARED, **own),
    )


def finetune_384(model: str) -> ClassificationConfig:
    """From weights at 224 pixels to 384 pixels: 30 epochs, TransNeXt 5.

    Source: as of `imagenet`. Command: `foveal train --recipe finetune_384 --model NAME --pretrained
    --data IMAGENET --output DIR`. Time: about a tenth of `imagenet`, TransNeXt a fiftieth, times
    three for the pixels. Expected: 1.0 to 1.4 points above 224 (TransNeXt-Small 84.7 → 86.0).
    """
    transnext = family_of(model) == "transnext"
    base = imagenet(model)
    train = replace(
        base.train,
        epochs=5 if transnext else 30,
        batch_size=32,
        lr=1e-5 if transnext else 4e-5,
        min_lr=1e-6,
        warmup_epochs=0 if transnext else 5,
        weight_decay=0.05 if transnext else 1e-8,
    )
    return replace(base, recipe="finetune_384", image_size=384, crop_pct=1.0, train=train)


def distill(model: str) -> ClassificationConfig:
    """ImageNet-1K from scratch beside a teacher, as EfficientMod's second column.

    Source: EfficientMod (2403.19963), table of distilled results. Command: `foveal train --recipe
    distill --model efficientmod_xxs --distillation.teacher timm:regnety_160.deit_in1k --data
    IMAGENET --output DIR`; `--distillation.kind soft` for the teacher's probabilities. Time: as
    `imagenet`, and the teacher's forward pass. Expected: EfficientMod xxs 77.1, xs 79.4, s 81.9.
    """
    teacher = Distillation(teacher="timm:regnety_160.deit_in1k")
    return replace(imagenet(model), recipe="distill", distillation=teacher)


def family_of(model: str) -> str:
    """The family's word at the start of a network's name; "" for networks of timm's."""
    if model.startswith("timm:"):
        return ""
    word = model.removeprefix("foveal_").split("_")[0]
    if word not in _OWN:
        raise OptionError(
            f"The papers' recipes are for {', '.join(_OWN)} and timm:NAME, got {model!r}; "
            "use --recipe small or finetune."
        )
    return word
