"""Segmenters: on a user's own scenes, and as the papers train them on ADE20K.

Every function takes the names of a head and of a backbone. The papers' numbers are those of their
own code; nobody has repeated them with this one.
"""

from collections.abc import Callable

from foveal.data.joint_augmentation import SegmentationAugmentation
from foveal.recipes.dense_config import SegmentationConfig
from foveal.train.config import TrainConfig

Recipe = Callable[[str, str], SegmentationConfig]

# 20,210 training images, 16 a step.
_STEPS_OF_AN_EPOCH = 20_210 // 16

_ADE20K = SegmentationAugmentation(
    scales=(512,), max_side=2048, jitter=(0.5, 2.0), crop=(512, 512), photometric=True
)


def scenes(head: str, model: str) -> SegmentationConfig:
    """A user's own scenes; what `foveal train --task segmentation` does without a recipe.

    Command: `foveal train --task segmentation --head HEAD --model NAME --data FOLDER --output
    DIR`, with `--pretrained` or `--checkpoint` for a backbone that has seen pictures before. Time
    and score depend on the scenes. Crops of 256 pixels of scenes whose shorter side becomes 320,
    times 0.5 to 2.
    """
    augmentation = SegmentationAugmentation(
        scales=(320,), max_side=1280, jitter=(0.5, 2.0), crop=(256, 256), photometric=True
    )
    train = TrainConfig(epochs=60, batch_size=8, lr=5e-4, warmup_epochs=1.0, clip_grad=1.0)
    return SegmentationConfig(
        recipe="scenes", head=head, model=model, augmentation=augmentation, train=train
    )


def ade20k_160k(head: str, model: str) -> SegmentationConfig:
    """ADE20K in 160,000 steps of 16 crops, for UPerNet.

    Command: `foveal train --task segmentation --recipe ade20k_160k --head upernet --model
    transnext_tiny --pretrained --data FOLDER --output DIR`, 16 images a step over all devices.
    Time: not measured here. Expected mIoU, one scale / several: TransNeXt-Tiny 51.1 / 51.7, Small
    52.2 / 52.8, Base 53.0 / 53.7; DAT-T++ 49.4 / 50.3, S++ 50.5 / 51.2, B++ 51.0 / 51.5.
    """
    train = _of_ade20k(160_000, lr=6e-5, weight_decay=0.01, power=1.0)
    return _config("ade20k_160k", head, model, 0.3, train)


def ade20k_80k(head: str, model: str) -> SegmentationConfig:
    """ADE20K in 80,000 steps of 16 crops, for Semantic FPN.

    Command: as `ade20k_160k`, with `--head semantic_fpn`. Time: not measured here. Expected mIoU,
    one scale / several: DAT-T++ 48.4 / 48.8, S++ 49.9 / 50.7, B++ 50.4 / 51.1.
    """
    train = _of_ade20k(80_000, lr=1e-4, weight_decay=1e-4, power=0.9)
    return _config("ade20k_80k", head, model, 0.2, train)


def ade20k_40k(head: str, model: str) -> SegmentationConfig:
    """ADE20K in 40,000 steps of 32 crops, for Semantic FPN.

    Command: as `ade20k_80k`, with 32 images a step. Time: not measured here. Expected mIoU:
    EfficientMod-s 46.0, EfficientMod-s-Conv 43.5.
    """
    train = _of_ade20k(40_000, lr=2e-4, weight_decay=1e-4, power=0.9, images=32)
    return _config("ade20k_40k", head, model, 0.1, train)


def ade20k_mask2former(head: str, model: str) -> SegmentationConfig:
    """ADE20K in 160,000 steps of 16 crops, for Mask2Former.

    Command: as `ade20k_160k`, with `--head mask2former`. Time: not measured here. Expected mIoU:
    TransNeXt-Tiny 53.4, Small 54.1, Base 54.7. The paper trains the backbone at a tenth of the
    head's rate; here layer-wise decay brings it down instead.
    """
    train = _of_ade20k(
        160_000, lr=1e-4, weight_decay=0.05, power=0.9, layer_decay=0.9, clip_grad=0.01
    )
    return _config("ade20k_mask2former", head, model, 0.3, train)


def _config(
    recipe: str, head: str, model: str, drop_path_rate: float, train: TrainConfig
) -> SegmentationConfig:
    return SegmentationConfig(
        recipe=recipe,
        head=head,
        model=model,
        drop_path_rate=drop_path_rate,
        augmentation=_ADE20K,
        train=train,
    )


def _of_ade20k(
    steps: int,
    *,
    lr: float,
    weight_decay: float,
    power: float,
    images: int = 16,
    layer_decay: float | None = None,
    clip_grad: float | None = None,
) -> TrainConfig:
    """So many steps, the first 1,500 to get to the rate, and then down to nothing."""
    an_epoch = _STEPS_OF_AN_EPOCH * 16 / images
    return TrainConfig(
        epochs=int(steps / an_epoch) + 1,
        max_steps=steps,
        batch_size=2,
        lr=lr,
        lr_batch_size=images,
        schedule="poly",
        lr_power=power,
        weight_decay=weight_decay,
        warmup_epochs=1500 / an_epoch,
        layer_decay=layer_decay,
        clip_grad=clip_grad,
    )


SEGMENTATION_RECIPES: dict[str, Recipe] = {
    "scenes": scenes,
    "ade20k_160k": ade20k_160k,
    "ade20k_80k": ade20k_80k,
    "ade20k_40k": ade20k_40k,
    "ade20k_mask2former": ade20k_mask2former,
}
