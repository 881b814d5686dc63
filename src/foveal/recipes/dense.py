"""Runs of detectors and segmenters, from their configurations to their results."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, TypeVar

import torch

from foveal.data.coco import read_detection_images
from foveal.data.detection import collate_detection
from foveal.data.joint_transforms import (
    JointTransform,
    detection_transforms,
    segmentation_transforms,
)
from foveal.data.loader import eval_loader, train_loader
from foveal.data.mask_folder import read_mask_folder
from foveal.data.problems import AnnotationProblems
from foveal.data.transforms import resolve_preprocessing
from foveal.errors import CheckpointError, FovealError
from foveal.models.freezing import freeze, freeze_norms
from foveal.models.pyramid import OnPyramid
from foveal.recipes.config import plain
from foveal.recipes.dense_config import (
    DenseConfig,
    DetectionConfig,
    SegmentationConfig,
)
from foveal.recipes.run import TrainingRun
from foveal.tasks.detection.heads import MASK_HEADS
from foveal.tasks.detection.heads import find_head as detection_head
from foveal.tasks.detection.task import Detection
from foveal.tasks.detection.truths import truths_of_images
from foveal.tasks.segmentation.heads import find_head as segmentation_head
from foveal.tasks.segmentation.task import Segmentation
from foveal.tools.box import BOX
from foveal.tools.dense import DenseCard, Task
from foveal.tools.trained import create_with_options, find_checkpoint
from foveal.train.checkpoint import read_metadata
from foveal.train.processes import process_index_and_count

Config = TypeVar("Config", bound=DenseConfig)

# Of --checkpoint: the model that comes with the library.
IN_THE_BOX = "box"


class DenseRun(TrainingRun[Config]):
    """What runs of detectors and segmenters have in common."""

    SAME = ("head", "model", "options", "head_options", "data", "augmentation")

    def prepare(self) -> None:
        """Data, network and task."""
        config = self.config
        # Decoding every image takes a while: misspelt names are to be found before.
        self.require_head()
        self.mean, self.std = _normalisation(config)
        self.read_data()
        torch.manual_seed(config.train.seed)
        self.model = network = self._create_model()
        self.notes = list(network.pyramid().notes)
        self.held = freeze(network, config.frozen_stages)
        if config.frozen_norms:
            self.held = [*self.held, *freeze_norms(network.pyramid().model)]
        self.task = self.create_task()

    @abstractmethod
    def require_head(self) -> None:
        """Raise if there is no such head."""

    @abstractmethod
    def read_data(self) -> None:
        """Read what is trained on, and raise a FovealError if it cannot be used."""

    @abstractmethod
    def create_task(self) -> Any:
        """Loss and figures."""

    @abstractmethod
    def card(self) -> DenseCard:
        """What travels with the weights."""

    @property
    @abstractmethod
    def problems(self) -> tuple[AnnotationProblems, ...]:
        """What was left out of the data, and why."""

    @property
    @abstractmethod
    def amounts(self) -> str:
        """How much there is to train on and to judge by, in words."""

    @abstractmethod
    def transform(self, train: bool) -> JointTransform:
        """From a picture and its annotations to the network's."""

    def _create_model(self) -> OnPyramid:
        """The network; what a resumed run starts from is in its state."""
        config, checkpoint = self.config, self.config.checkpoint
        if checkpoint is not None:
            found = BOX if checkpoint == IN_THE_BOX else find_checkpoint(checkpoint)
            _require_backbone(found)
            checkpoint = None if self.goes_on else str(found)
        return self.card().build(
            pretrained=config.pretrained and not self.goes_on,
            checkpoint=checkpoint,
            drop_path_rate=config.drop_path_rate,
        )

    def _card_of(self, task: Task, **known: Any) -> DenseCard:
        config = self.config
        paths = {
            key: str(Path(value).resolve()) if isinstance(value, str) else value
            for key, value in config.to_dict()["data"].items()
        }
        return DenseCard(
            task=task,
            head=config.head,
            model=config.model,
            options=plain(config.options),
            head_options=plain(config.head_options),
            mean=self.mean,
            std=self.std,
            data={**paths, "seed": config.train.seed},
            **known,
        )


class DetectionRun(DenseRun[DetectionConfig]):
    """A run of a detector; as `TrainingRun`."""

    def require_head(self) -> None:
        """Raise if there is no such head."""
        detection_head(self.config.head)

    def read_data(self) -> None:
        """The two COCO files."""
        data = self.config.data
        if data.path is None or data.val_data is None or data.images is None:
            raise FovealError(
                "A detector is trained on a COCO file and judged by another: give --data FILE, "
                "--val-data FILE and --images DIR."
            )
        self.data = read_detection_images(
            data.path,
            data.val_data,
            data.images,
            masks=self.config.head in MASK_HEADS,
            strict=data.strict,
        )

    def create_task(self) -> Detection:
        """COCO's figures over what was not left out."""
        truths = truths_of_images(self.data.val.images)
        return Detection(len(self.data.classes), truths=truths)

    def card(self) -> DenseCard:
        """What travels with the weights."""
        seen = self.config.augmentation
        return self._card_of(
            "detection",
            classes=self.data.classes,
            eval_scale=seen.eval_scale,
            eval_max_side=seen.eval_max_side,
        )

    @property
    def problems(self) -> tuple[AnnotationProblems, ...]:
        """What was left out of the data, and why."""
        return self.data.train.problems, self.data.val.problems

    @property
    def amounts(self) -> str:
        """How much there is to train on and to judge by, in words."""
        train, val = self.data.train, self.data.val
        return (
            f"{train.num_objects:,} objects of {len(self.data.classes)} classes in {len(train):,} "
            f"images, {val.num_objects:,} in {len(val):,} more to judge by"
        )

    def transform(self, train: bool) -> JointTransform:
        """From a picture and its objects to the network's."""
        return detection_transforms(self.mean, self.std, self.config.augmentation, train)

    def loaders(self) -> tuple[Any, Any]:
        """This process's batches to train on, and to judge by."""
        train = self.config.train
        rank, world = process_index_and_count()
        given: dict[str, Any] = {
            "batch_size": train.batch_size,
            "workers": train.workers,
            "collate_fn": collate_detection,
            "rank": rank,
            "world": world,
        }
        learned = self.data.train.dataset(self.transform(train=True), seed=train.seed)
        judged = self.data.val.dataset(self.transform(train=False), seed=train.seed)
        return train_loader(learned, seed=train.seed, **given), eval_loader(judged, **given)


class SegmentationRun(DenseRun[SegmentationConfig]):
    """A run of a segmenter; as `TrainingRun`."""

    def require_head(self) -> None:
        """Raise if there is no such head."""
        segmentation_head(self.config.head)

    def read_data(self) -> None:
        """The mask folder."""
        data = self.config.data
        if data.path is None:
            raise FovealError("A segmenter is trained on a mask folder; give --data DIR.")
        self.data = read_mask_folder(data.path, splits=("train", "val"), strict=data.strict)

    def create_task(self) -> Segmentation:
        """Intersection over union."""
        return Segmentation(len(self.data.classes), self.data.ignore_index)

    def card(self) -> DenseCard:
        """What travels with the weights."""
        return self._card_of(
            "segmentation", classes=self.data.classes, ignore_index=self.data.ignore_index
        )

    @property
    def problems(self) -> tuple[AnnotationProblems, ...]:
        """What was left out of the data, and why."""
        return self.data.split("train").problems, self.data.split("val").problems

    @property
    def amounts(self) -> str:
        """How much there is to train on and to judge by, in words."""
        train, val = self.data.split("train"), self.data.split("val")
        return (
            f"{len(train):,} scenes of {len(self.data.classes)} classes, {len(val):,} more to "
            "judge by"
        )

    def transform(self, train: bool) -> JointTransform:
        """From a picture and its labels to the network's."""
        augmentation, ignored = self.config.augmentation, self.data.ignore_index
        return segmentation_transforms(self.mean, self.std, augmentation, train, ignored)

    def loaders(self) -> tuple[Any, Any]:
        """This process's batches to train on; to judge by, one scene at a time."""
        train = self.config.train
        rank, world = process_index_and_count()
        given: dict[str, Any] = {"workers": train.workers, "rank": rank, "world": world}
        learned = self.data.split("train").dataset(self.transform(train=True), seed=train.seed)
        judged = self.data.split("val").dataset(self.transform(train=False), seed=train.seed)
        return (
            train_loader(learned, batch_size=train.batch_size, seed=train.seed, **given),
            eval_loader(judged, batch_size=1, **given),
        )


def _require_backbone(file: Path) -> None:
    """Raise if a file holds a whole detector or segmenter, whose keys are others."""
    task = read_metadata(file).get("task") if file.suffix == ".safetensors" else None
    if task is not None:
        raise CheckpointError(
            f"{file} holds a network for {task}; --checkpoint takes a backbone's weights, those "
            "of a classifier, and --resume goes on with a run in its --output folder."
        )


def _normalisation(config: DenseConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread of the channels that the backbone was, or would be, trained with."""
    network: Any = create_with_options(config.model, config.options, device="meta")
    preprocessing = resolve_preprocessing(getattr(network, "pretrained_cfg", {}))
    return preprocessing.mean, preprocessing.std
