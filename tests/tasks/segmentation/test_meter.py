"""Figures of segmentation, against torchmetrics and against counts by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from foveal.errors import FovealError
from foveal.tasks.segmentation.meter import SegmentationMeter
from foveal.tasks.segmentation.task import Segmentation


def random_case(seed: int, num_classes: int, present: int) -> tuple[Tensor, Tensor]:
    """Predictions that are right more often than not, of which some classes never occur."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, present, (3, 20, 30), generator=generator)
    guesses = torch.randint(0, present, labels.shape, generator=generator)
    right = torch.rand(labels.shape, generator=generator) < 0.6
    ignored = torch.rand(labels.shape, generator=generator) < 0.1
    predicted = torch.where(right, labels, guesses)
    return predicted, torch.where(ignored, num_classes, labels)


@pytest.mark.parametrize(("num_classes", "present"), [(2, 2), (7, 7), (7, 4), (150, 40)])
@pytest.mark.parametrize("seed", range(3))
def test_the_figures_equal_those_of_torchmetrics(seed: int, num_classes: int, present: int):
    predicted, labels = random_case(seed, num_classes, present)
    meter = SegmentationMeter(num_classes, ignore_index=num_classes)
    for part in (slice(0, 1), slice(1, 3)):
        meter.update((predicted[part], labels[part]))
    theirs = {
        "miou": MulticlassJaccardIndex(num_classes, ignore_index=num_classes),
        "macc": MulticlassAccuracy(num_classes, average="macro", ignore_index=num_classes),
        "aacc": MulticlassAccuracy(num_classes, average="micro", ignore_index=num_classes),
    }
    assert meter.scores() == {
        name: pytest.approx(100 * metric(predicted, labels).item(), rel=1e-6)
        for name, metric in theirs.items()
    }
    each = MulticlassJaccardIndex(num_classes, average="none", ignore_index=num_classes)
    rows = meter.result([str(i) for i in range(num_classes)]).per_class()
    found = [row.iou for row in rows[:present]]
    assert found == pytest.approx((100 * each(predicted, labels)[:present]).tolist(), rel=1e-6)
    assert [row.iou for row in rows[present:]] == [None] * (num_classes - present)


def test_by_hand():
    meter = SegmentationMeter(4)
    labels = torch.tensor([[[0, 0, 0, 1], [1, 255, 255, 0]]])
    predicted = torch.tensor([[[0, 0, 2, 1], [0, 1, 3, 0]]])
    meter.update((predicted, labels))
    result = meter.result(["a", "b", "c", "d"])
    # a: 3 of 5 in the union; b: 1 of 2; c is predicted only; d occurs on ignored pixels only.
    assert [row.iou for row in result.per_class()] == [60, 50, 0, None]
    assert [row.accuracy for row in result.per_class()] == [75, 50, None, None]
    assert result.miou == pytest.approx((60 + 50 + 0) / 3)
    assert result.macc == pytest.approx((75 + 50) / 2)
    assert result.aacc == pytest.approx(100 * 4 / 6)
    assert result.num_images == 1
    assert result.confusion.tolist() == [[3, 0, 1, 0], [1, 1, 0, 0], [0] * 4, [0] * 4]
    pairs = [(p.true, p.predicted, p.num_pixels, p.share) for p in result.confusions()]
    assert sorted(pairs) == [("a", "c", 1, 25), ("b", "a", 1, 50)]


def test_sums_of_processes_add_up_to_the_whole():
    predicted, labels = random_case(0, 7, 7)
    whole, parts = SegmentationMeter(7, 7), [SegmentationMeter(7, 7) for _ in range(2)]
    whole.update((predicted, labels))
    parts[0].update((predicted[:1], labels[:1]))
    parts[1].update((predicted[1:], labels[1:]))
    total = parts[0].sums() + parts[1].sums()
    assert total.dtype == torch.float64
    parts[0].take_sums(total)
    assert parts[0].scores() == whole.scores()
    assert parts[0].num_images == whole.num_images == 3


def test_labels_that_are_no_classes_are_refused():
    meter = SegmentationMeter(3)
    with pytest.raises(FovealError, match="from 0 to 7"):
        meter.update((torch.zeros(1, 1, 2).long(), torch.tensor([[[0, 7]]])))


def test_figures_of_no_pixel_are_refused():
    meter = SegmentationMeter(3)
    meter.update((torch.zeros(1, 1, 2).long(), torch.full((1, 1, 2), 255)))
    with pytest.raises(FovealError, match="ignore_index"):
        meter.scores()


class Fixed(nn.Module):
    """Scores that are the image's channels, and two losses."""

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        if labels is None:
            return images
        return {"one": images.mean(), "other": labels.float().mean()}


def test_the_task_sums_losses_and_brings_scores_to_the_labels_size():
    task = Segmentation(3, image_names=["a.jpg", "b.jpg"])
    images = torch.zeros(2, 3, 4, 4)
    images[0, 1], images[1, 2] = 1, 1
    labels = torch.ones(2, 8, 8).long()
    batch = {"image": images, "label": labels, "index": torch.tensor([1, 0])}
    assert task.loss(Fixed(), batch).item() == pytest.approx(1 / 3 + 1)
    predicted, same = task.predict(Fixed(), batch)
    assert predicted.shape == (2, 8, 8)
    assert (predicted[0] == 1).all() and (predicted[1] == 2).all()
    meter = task.meter()
    meter.update((predicted, same))
    assert meter.scores()[task.best_score] == pytest.approx(100 * (64 / 128) / 2)
    assert np.isclose(meter.scores()["aacc"], 50)
    assert (task.count(batch), task.names(batch)) == (2, ["b.jpg", "a.jpg"])
