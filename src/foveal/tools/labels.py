"""How the class folders of a data set stand for a model's outputs; ImageNet's variants among them.

ReaL (Beyer et al. 2020, arXiv 2006.07159) accepts any of several labels an image, V2 (Recht et al.
2019) has folders numbered 0 to 999, A (Hendrycks et al. 2021) and R (Hendrycks et al. 2021) have
200 of the classes each, Sketch (Wang et al. 2019) has all. The lists of classes and labels are
timm's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from timm.data import ImageNetInfo, RealLabelsImagenet, infer_imagenet_subset

from foveal.data.dataset import Samples
from foveal.data.folder import class_names, is_split
from foveal.errors import FovealError
from foveal.tools.trained import ModelCard, TrainedModel, default_classes

DatasetName = Literal[
    "folder", "imagenet-real", "imagenet-v2", "imagenet-a", "imagenet-r", "sketch"
]
DATASETS: tuple[DatasetName, ...] = get_args(DatasetName)

_NUM_VALIDATION = 50_000


@dataclass(frozen=True)
class Labelling:
    """What the labels of a data set mean.

    Attributes:
        folders: folder names by label.
        names: class names by label.
        outputs: the model's output for each label; None where they are the same.
        accepted: by file name, all labels that are right for an image; None for the folder's own.
    """

    folders: tuple[str, ...]
    names: tuple[str, ...]
    outputs: tuple[int, ...] | None = None
    accepted: Mapping[str, Sequence[int]] | None = None

    def judged(self, samples: Samples) -> Samples:
        """The samples that have a right label at all; ReaL leaves some images without.

        Raises:
            FovealError: a file is none of ImageNet's validation images.
        """
        if self.accepted is None:
            return samples
        for name in samples.names:
            if Path(name).name not in self.accepted:
                raise FovealError(
                    f"{name} is no image of ImageNet's validation set, whose files ReaL's labels "
                    "know by name: ILSVRC2012_val_00000001.JPEG to ILSVRC2012_val_00050000.JPEG."
                )
        kept = [i for i, name in enumerate(samples.names) if self.accepted[Path(name).name]]
        return samples.take(kept)


def labelling_of(trained: TrainedModel, root: Path, dataset: DatasetName = "folder") -> Labelling:
    """How the folders in `root` stand for the classes of a model.

    Args:
        trained: the model.
        root: holds the class folders, or `train` and `val` with them.
        dataset: "folder" for folders named after classes, or one of ImageNet's variants.

    Raises:
        FovealError: the model has no classifier or not ImageNet's, or a folder is no class of it.
    """
    require_classifier(trained)
    if dataset == "folder":
        return Labelling(_folders_of(trained.card, root), trained.card.classes)
    if not is_imagenet(trained.card):
        raise FovealError(
            f"--dataset {dataset} judges classifiers of ImageNet's 1000 classes, and "
            f"{trained.card.model} from {trained.source} has {len(trained.card.classes)} others; "
            "leave --dataset out to judge it by folders named after its classes."
        )
    return _variant(root, dataset)


def require_classifier(trained: TrainedModel) -> None:
    """Raise if a model has no classes."""
    if not trained.card.classes:
        raise FovealError(
            f"{trained.card.model} from {trained.source} has no classifier, so it cannot be "
            "judged; train one with `foveal train --checkpoint`."
        )


def is_imagenet(card: ModelCard) -> bool:
    """Whether the classes are ImageNet's 1000, by description or by WordNet number."""
    return card.classes in (default_classes(1000), _wordnet_numbers())


def _folders_of(card: ModelCard, root: Path) -> tuple[str, ...]:
    """The folder names that stand for the model's classes, by index."""
    known = card.classes
    present = _present(root)
    if present <= set(known):
        return known
    subset = infer_imagenet_subset({"num_classes": len(known)})
    if subset is not None:
        numbers = tuple(ImageNetInfo(subset).label_names())
        if present <= set(numbers):
            return numbers
    stranger = min(present - set(known))
    raise FovealError(
        f"{root} has a class {stranger!r} that the model does not know; it knows "
        f"{', '.join(known[:5])}{', …' if len(known) > 5 else ''}."
    )


def _variant(root: Path, dataset: DatasetName) -> Labelling:
    """The labelling of one of ImageNet's variants."""
    numbers, names = _wordnet_numbers(), default_classes(1000)
    outputs = None
    if dataset in ("imagenet-a", "imagenet-r"):
        outputs = _subset(dataset)
        numbers, names = (tuple(of[i] for i in outputs) for of in (numbers, names))
    folders = [numbers]
    if dataset == "imagenet-v2":
        folders.append(tuple(str(i) for i in range(1000)))
    present = _present(root)
    fitting = next((known for known in folders if present <= set(known)), None)
    if fitting is None:
        stranger = min(present - set(folders[-1]))
        expected = " or ".join(f"{known[0]} to {known[-1]}" for known in folders)
        raise FovealError(
            f"{root} has a folder {stranger!r} that {dataset} does not have; its {len(numbers)} "
            f"class folders are called {expected}."
        )
    accepted = _real_labels() if dataset == "imagenet-real" else None
    return Labelling(fitting, names, outputs, accepted)


def _present(root: Path) -> set[str]:
    return set(class_names(root / "train" if is_split(root) else root))


@cache
def _wordnet_numbers() -> tuple[str, ...]:
    return tuple(ImageNetInfo("imagenet-1k").label_names())


@cache
def _subset(dataset: str) -> tuple[int, ...]:
    """The classes of ImageNet-A or -R among the 1000."""
    name = f"{dataset.replace('-', '_')}_indices.txt"
    text = files("timm.data").joinpath("_info", name).read_text(encoding="utf-8")
    return tuple(int(index) for index in text.split())


@cache
def _real_labels() -> dict[str, list[int]]:
    """ReaL's labels of every validation image by file name; empty where there is none."""
    # timm's class wants a file for every label; it is read here for its table alone.
    return RealLabelsImagenet([""] * _NUM_VALIDATION).real_labels
