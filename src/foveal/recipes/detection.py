"""Detectors: on a user's own images, and as the papers train them on COCO.

Every function takes the names of a head and of a backbone. The papers' numbers are those of their
own code; nobody has repeated them with this one.
"""

from collections.abc import Callable

from foveal.data.joint_augmentation import DetectionAugmentation
from foveal.recipes.dense_config import DetectionConfig
from foveal.train.config import TrainConfig

Recipe = Callable[[str, str], DetectionConfig]


def objects(head: str, model: str) -> DetectionConfig:
    """A user's own images; what `foveal train --task detection` does without a recipe.

    Command: `foveal train --task detection --head HEAD --model NAME --data train.json --val-data
    val.json --images DIR --output DIR`, with `--pretrained` or `--checkpoint` for a backbone that
    has seen pictures before. Time and score depend on the images.
    """
    train = TrainConfig(epochs=24, batch_size=8, lr=2e-4, warmup_epochs=1.0, clip_grad=1.0)
    return DetectionConfig(recipe="objects", head=head, model=model, train=train)


def coco_1x(head: str, model: str) -> DetectionConfig:
    """COCO in 12 epochs, at 800 pixels.

    Command: `foveal train --task detection --recipe coco_1x --head mask_rcnn --model
    transnext_tiny --pretrained --data instances_train2017.json --val-data instances_val2017.json
    --images DIR --output DIR`, 16 images a step over all devices. Time: not measured here.
    Expected, box / mask mAP: Mask R-CNN TransNeXt-Tiny 49.9 / 44.6, Small 51.1 / 45.5, Base 51.7 /
    45.9; DAT-T++ 48.7 / 43.7, S++ 49.8 / 44.5; EfficientMod-s 43.6 / 40.3. RetinaNet DAT-T++ 46.8.
    Cascade Mask R-CNN DAT-T++ 52.2 / 45.0.
    """
    return DetectionConfig(
        recipe="coco_1x",
        head=head,
        model=model,
        drop_path_rate=0.2,
        augmentation=DetectionAugmentation(scales=(800,)),
        train=_of_coco(12, (8 / 12, 11 / 12)),
    )


def coco_3x(head: str, model: str) -> DetectionConfig:
    """COCO in 36 epochs, at 480 to 800 pixels.

    Command: as `coco_1x`. Time: not measured here. Expected, box / mask mAP: Mask R-CNN DAT-T++
    50.5 / 45.1, S++ 51.2 / 45.7; Cascade Mask R-CNN DAT-T++ 53.0 / 46.0, S++ 54.2 / 46.9, B++ 54.5
    / 47.0. RetinaNet DAT-T++ 49.2, S++ 50.2.
    """
    return DetectionConfig(
        recipe="coco_3x",
        head=head,
        model=model,
        drop_path_rate=0.3,
        train=_of_coco(36, (27 / 36, 33 / 36)),
    )


def _of_coco(epochs: int, lr_steps: tuple[float, ...]) -> TrainConfig:
    """AdamW at 1e-4 for 16 images a step; 500 steps of 7,330 an epoch to get there."""
    return TrainConfig(
        epochs=epochs,
        batch_size=2,
        lr=1e-4,
        lr_batch_size=16,
        schedule="steps",
        lr_steps=lr_steps,
        weight_decay=0.05,
        warmup_epochs=500 / 7330,
        clip_grad=None,
    )


DETECTION_RECIPES: dict[str, Recipe] = {
    "objects": objects,
    "coco_1x": coco_1x,
    "coco_3x": coco_3x,
}
