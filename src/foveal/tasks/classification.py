"""Image classification: loss, figures, predictions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import MissingExtraError
from foveal.tasks.mixing import Mixing

NO_MIXING = Mixing()

# Bins of confidence that the calibration error is customarily taken over (Guo et al. 2017).
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ClassScore:
    """A class and the probability that a model gives it, in [0, 1]."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What a model takes one image for, the likeliest class first."""

    image: str
    scores: tuple[ClassScore, ...]

    @property
    def top(self) -> ClassScore:
        """The likeliest class."""
        return self.scores[0]


@dataclass(frozen=True)
class ClassResult:
    """One class's share of an evaluation: how many images, and how many were recognised."""

    name: str
    num_images: int
    num_correct: int

    @property
    def accuracy(self) -> float | None:
        """In per cent; None where there was no image."""
        return 100 * self.num_correct / self.num_images if self.num_images else None


@dataclass(frozen=True)
class Confusion:
    """How many images of one class were taken for another."""

    true: str
    predicted: str
    count: int
    share: float
    """Of the images of the true class, in per cent."""


@dataclass(frozen=True)
class ClassificationResult:
    """Figures of one evaluation.

    Attributes:
        classes: names by index.
        num_images: how many were judged.
        top1: share with the right class first, in per cent.
        top5: share with the right class among the first five, in per cent.
        loss: mean cross-entropy, in nats.
        counts: true class, predicted class and number of images, where there are any; rising.
        ece: expected calibration error in per cent, the mean distance between confidence and
            accuracy over 15 bins of confidence; None where the meter was not told to keep it.
    """

    classes: tuple[str, ...]
    num_images: int
    top1: float
    top5: float
    loss: float
    counts: tuple[tuple[int, int, int], ...]
    ece: float | None = None

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Images by true (row) and predicted class (column), zeros and all."""
        rows = [[0] * len(self.classes) for _ in self.classes]
        for true, predicted, count in self.counts:
            rows[true][predicted] = count
        return tuple(map(tuple, rows))

    def per_class(self) -> tuple[ClassResult, ...]:
        """The same, class by class."""
        images, right = self._totals()
        return tuple(
            ClassResult(name, images[index], right[index])
            for index, name in enumerate(self.classes)
        )

    def confusions(self, limit: int | None = None) -> tuple[Confusion, ...]:
        """Pairs of a class and what it was taken for, the commonest first; `limit` of them."""
        images, _ = self._totals()
        pairs = [
            Confusion(self.classes[i], self.classes[j], count, 100 * count / images[i])
            for i, j, count in self.counts
            if i != j
        ]
        return tuple(sorted(pairs, key=lambda pair: -pair.count)[:limit])

    def _totals(self) -> tuple[Counter[int], Counter[int]]:
        """By class: how many images, and how many of them were recognised."""
        images, right = Counter[int](), Counter[int]()
        for true, predicted, count in self.counts:
            images[true] += count
            right[true] += count if true == predicted else 0
        return images, right


class ClassificationMeter:
    """Adds up an evaluation batch by batch.

    Args:
        num_classes: outputs of the model.
        calibration: keep the confidences that the calibration error needs, one an image.

    Raises:
        MissingExtraError: calibration is asked for without torchmetrics.
    """

    def __init__(self, num_classes: int, *, calibration: bool = False):
        self.num_classes = num_classes
        # Not a matrix, which 22k classes would make gigabytes large and all but empty.
        self.counts = Counter[int]()
        self.num_images = 0
        self.num_right = 0
        self.in_top5 = 0
        self.loss = 0.0
        self.calibration = _calibration_error(num_classes) if calibration else None

    def update(self, outputs: tuple[Tensor, ...]) -> None:
        """Take in logits (B, num_classes) and labels (B)."""
        logits, labels = outputs[0].float().cpu(), outputs[1].cpu()
        top = logits.topk(min(5, self.num_classes), dim=1).indices
        cells = labels * self.num_classes + top[:, 0]
        found: list[list[int]] = [part.tolist() for part in cells.unique(return_counts=True)]
        self.counts.update(dict(zip(*found, strict=True)))
        self.num_images += len(labels)
        self.num_right += int((top[:, 0] == labels).sum())
        self.in_top5 += int((top == labels[:, None]).sum())
        self.loss += F.cross_entropy(logits, labels, reduction="sum").item()
        if self.calibration is not None:
            # torchmetrics gives a confidence of exactly 1, common in float32, a bin of its own.
            self.calibration.update(logits.softmax(1).clamp(max=1 - 2**-24), labels)

    def sums(self) -> Float[Tensor, " n"]:
        """The confusion matrix, the images in the top five, and the loss, all added up."""
        rest = torch.tensor([self.in_top5, self.loss], dtype=torch.float64)
        return torch.cat([self.confusion.flatten().double(), rest])

    def take_sums(self, sums: Float[Tensor, " n"]) -> None:
        """Stand for the images that the sums were taken over."""
        self.confusion = sums[:-2].round().long().view_as(self.confusion)
        self.in_top5, self.loss = round(sums[-2].item()), sums[-1].item()

    def scores(self) -> dict[str, float]:
        """top1 and top5 in per cent, and the mean loss."""
        count = max(1, self.num_images)
        return {
            "top1": 100 * self.num_right / count,
            "top5": 100 * self.in_top5 / count,
            "loss": self.loss / count,
        }

    def ece(self) -> float | None:
        """Expected calibration error in per cent, as `ClassificationResult` has it."""
        if self.calibration is None or not self.num_images:
            return None
        return 100 * self.calibration.compute().item()

    def result(self, classes: Sequence[str]) -> ClassificationResult:
        """Everything, with the classes' names."""
        counts = tuple(
            (*divmod(cell, self.num_classes), n) for cell, n in sorted(self.counts.items())
        )
        return ClassificationResult(
            tuple(classes), self.num_images, **self.scores(), counts=counts, ece=self.ece()
        )


def _calibration_error(num_classes: int) -> Any:
    """torchmetrics' L1 calibration error of the likeliest class."""
    try:
        from torchmetrics.classification import MulticlassCalibrationError
    except ImportError as error:
        raise MissingExtraError("torchmetrics", "train") from error
    return MulticlassCalibrationError(num_classes, CALIBRATION_BINS, "l1", validate_args=False)


class Classification:
    """The task, as the training loop knows it.

    Args:
        num_classes: outputs of the model.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        image_names: of the training images, by their `index` in a batch.
        mixing: blends of training images.
    """

    best_score = "top1"

    def __init__(
        self,
        num_classes: int,
        label_smoothing: float = 0.0,
        image_names: Sequence[str] = (),
        mixing: Mixing = NO_MIXING,
    ):
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.image_names = image_names
        self.mixing = mixing

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Float[Tensor, ""]:
        """Cross-entropy of the blended batch, in float32."""
        images, targets = self.mixing.blend(batch["image"], batch["label"], self.num_classes)
        return self.cross_entropy(model(images).float(), targets)

    def cross_entropy(self, logits: Float[Tensor, "b classes"], targets: Tensor) -> Tensor:
        """With class indices (b) or shares of each class (b, classes), smoothed."""
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def predict(self, model: nn.Module, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits (B, num_classes) and labels (B)."""
        return model(batch["image"]), batch["label"]

    def count(self, batch: Mapping[str, Any]) -> int:
        """Images in the batch."""
        return len(batch["image"])

    def names(self, batch: Mapping[str, Any]) -> list[str]:
        """The batch's own names, or those of its indices."""
        if "name" in batch or not self.image_names:
            return list(map(str, batch.get("name", ())))
        return [str(self.image_names[index]) for index in batch["index"].tolist()]

    def meter(self) -> ClassificationMeter:
        """A fresh meter."""
        return ClassificationMeter(self.num_classes)


def top_classes(
    logits: Float[Tensor, "n classes"], names: Sequence[str], images: Sequence[str], top: int = 5
) -> list[Prediction]:
    """The `top` likeliest classes of each image, at most as many as there are."""
    probabilities, indices = logits.softmax(1).topk(min(top, logits.shape[1]), dim=1)
    predictions = []
    for row, image in enumerate(images):
        order: list[int] = indices[row].tolist()
        shares: list[float] = probabilities[row].tolist()
        scores = (ClassScore(i, str(names[i]), p) for i, p in zip(order, shares, strict=True))
        predictions.append(Prediction(image, tuple(scores)))
    return predictions
