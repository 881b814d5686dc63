"""What can be trained beside classifiers: configuration, run, recipes and heads of each task."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from foveal.errors import OptionError, closest
from foveal.recipes.dense import DenseRun, DetectionRun, SegmentationRun
from foveal.recipes.dense_config import DenseConfig, DetectionConfig, SegmentationConfig
from foveal.recipes.detection import DETECTION_RECIPES
from foveal.recipes.segmentation import SEGMENTATION_RECIPES
from foveal.tasks.detection.heads import HEADS as DETECTION_HEADS
from foveal.tasks.segmentation.heads import HEADS as SEGMENTATION_HEADS


@dataclass(frozen=True)
class DenseTask:
    """A task beside classification.

    Attributes:
        name: as in --task.
        config: what a run is made of.
        run: does it.
        recipes: by name, from head and backbone to a configuration; the first is the default.
        heads: names.
        score: figure that decides which checkpoint is best, in words.
    """

    name: str
    config: type[DenseConfig]
    run: type[DenseRun[Any]]
    recipes: Mapping[str, Callable[[str, str], DenseConfig]]
    heads: Iterable[str]
    score: str

    def configure(self, recipe: str | None, head: str, model: str) -> DenseConfig:
        """A recipe's values.

        Raises:
            OptionError: there is no such recipe; the message has the nearest.
        """
        name = recipe or next(iter(self.recipes))
        if name not in self.recipes:
            raise OptionError(
                f"{self.name} has no recipe {name!r}.{closest(name, self.recipes)} There are "
                f"{', '.join(self.recipes)}."
            )
        return replace(self.recipes[name](head, model), recipe=name)


DENSE_TASKS: dict[str, DenseTask] = {
    "detection": DenseTask(
        "detection",
        DetectionConfig,
        DetectionRun,
        DETECTION_RECIPES,
        tuple(DETECTION_HEADS),
        "mAP",
    ),
    "segmentation": DenseTask(
        "segmentation",
        SegmentationConfig,
        SegmentationRun,
        SEGMENTATION_RECIPES,
        tuple(SEGMENTATION_HEADS),
        "mIoU, in per cent",
    ),
}
