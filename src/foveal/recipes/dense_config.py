"""What runs of detectors and segmenters are made of."""

from dataclasses import asdict, dataclass, field
from typing import Any

from foveal.data.joint_augmentation import (
    DetectionAugmentation,
    JointAugmentation,
    SegmentationAugmentation,
)
from foveal.errors import OptionError
from foveal.recipes.config import plain
from foveal.train.config import TrainConfig

# Options of the backbone that have settings of their own.
_NOT_OPTIONS = ("num_classes", "drop_path_rate", "out_indices")


@dataclass(frozen=True, kw_only=True)
class DetectionData:
    """What a detector is trained on, and judged by.

    Attributes:
        path: COCO file of what is trained on.
        val_data: COCO file of what is judged by.
        images: folder that the file names in both are relative to.
        strict: refuse annotations with faults, which are otherwise left out and counted.
    """

    path: str | None = None
    val_data: str | None = None
    images: str | None = None
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class SegmentationData:
    """What a segmenter is trained on, and judged by.

    Attributes:
        path: mask folder, with train and val in it.
        strict: refuse scenes with faults, which are otherwise left out and counted.
    """

    path: str | None = None
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class DenseConfig:
    """What runs of detectors and segmenters have in common.

    Attributes:
        recipe: that the values come from, but for those given beside it.
        head: name of the head.
        model: name of the backbone, or "timm:NAME".
        options: of the backbone, such as focal_windows=[9,9,9,9].
        head_options: of the head, such as num_queries=100.
        drop_path_rate: stochastic depth of the backbone's last block; None for its own.
        pretrained: start from the backbone's published weights.
        checkpoint: start from the backbone's weights in this file.
        augmentation: sizes, and random changes to the training images.
        frozen_stages: the backbone's stem and so many stages stay as they are; 0 for none of them.
        frozen_norms: the backbone's norms stay as they are, statistics and all.
        train: length and optimisation.
    """

    recipe: str | None = None
    head: str = ""
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    head_options: dict[str, Any] = field(default_factory=dict)
    drop_path_rate: float | None = None
    pretrained: bool = False
    checkpoint: str | None = None
    augmentation: JointAugmentation = field(default_factory=JointAugmentation)
    frozen_stages: int = 0
    frozen_norms: bool = False
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for name in _NOT_OPTIONS:
            if name in self.options:
                raise OptionError(f"{name} is no option to be given here; leave it out of options.")
        if self.drop_path_rate is not None and not 0 <= self.drop_path_rate < 1:
            raise OptionError(
                f"drop_path_rate is 0 or more and below 1, got {self.drop_path_rate}."
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for config.yaml."""
        return plain(asdict(self))


@dataclass(frozen=True, kw_only=True)
class DetectionConfig(DenseConfig):
    """A run of a detector.

    Attributes:
        data: what to train on.
        augmentation: sizes, and random changes to the training images.
    """

    augmentation: DetectionAugmentation = field(default_factory=DetectionAugmentation)
    data: DetectionData = field(default_factory=DetectionData)


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(DenseConfig):
    """A run of a segmenter.

    Attributes:
        data: what to train on.
        augmentation: sizes, and random changes to the training images.
    """

    augmentation: SegmentationAugmentation = field(default_factory=SegmentationAugmentation)
    data: SegmentationData = field(default_factory=SegmentationData)
