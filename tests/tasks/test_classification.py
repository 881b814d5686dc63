"""Figures of classification, against counts by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from foveal.tasks.classification import Classification, ClassificationMeter, top_classes


def test_the_meter_counts():
    logits = torch.tensor([[3.0, 1, 0], [0, 1, 2], [5, 1, 0], [0, 0, 9]])
    labels = torch.tensor([0, 1, 1, 2])
    meter = ClassificationMeter(3)
    meter.update((logits[:1], labels[:1]))
    meter.update((logits[1:], labels[1:]))
    result = meter.result(["a", "b", "c"])
    assert (result.num_images, result.top1, result.top5) == (4, 50, 100)
    assert result.confusion == ((1, 0, 0), (1, 0, 1), (0, 0, 1))
    assert result.loss == pytest.approx(F.cross_entropy(logits, labels).item())
    assert [row.accuracy for row in result.per_class()] == [100, 0, 100]


def test_top5_of_many_classes():
    logits = torch.arange(10.0).repeat(3, 1)
    meter = ClassificationMeter(10)
    meter.update((logits, torch.tensor([9, 5, 4])))
    assert meter.scores()["top1"] == pytest.approx(100 / 3)
    assert meter.scores()["top5"] == pytest.approx(200 / 3)
    assert meter.result([str(i) for i in range(10)]).per_class()[0].accuracy is None


def calibration_by_hand(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The expected calibration error over 15 equal bins, in per cent, one image after the other."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, label in zip(logits.softmax(1).tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        bins[min(14, int(confidence * 15))].append((confidence, row.index(confidence) == label))
    gaps = (abs(sum(c for c, _ in b) - sum(right for _, right in b)) for b in bins)
    return 100 * sum(gaps) / len(labels)


@pytest.mark.parametrize("sharpness", [0.5, 3.0, 200.0])
def test_the_calibration_error_is_that_of_15_bins(sharpness: float):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 6, generator=generator) * sharpness
    labels = torch.where(
        torch.rand(500, generator=generator) < 0.6,
        logits.argmax(1),
        torch.randint(0, 6, (500,), generator=generator),
    )
    meter = ClassificationMeter(6, calibration=True)
    for part in (slice(0, 100), slice(100, 500)):
        meter.update((logits[part], labels[part]))
    expected = calibration_by_hand(logits, labels)
    assert expected > 1
    assert meter.result("abcdef").ece == pytest.approx(expected, abs=1e-3)


def test_complete_confidence_belongs_to_the_last_bin():
    # Two wrong with confidence 1 and two right with 0.95: their gaps have opposite signs.
    logits = torch.tensor([[200.0, 0], [200, 0], [19, 1], [19, 1]])
    logits[2:] = logits[2:].log()
    meter = ClassificationMeter(2, calibration=True)
    meter.update((logits, torch.tensor([1, 1, 0, 0])))
    assert meter.ece() == pytest.approx(100 * (2 + 1.9 - 2) / 4, abs=1e-3)


def test_calibration_is_kept_only_when_asked_for():
    meter = ClassificationMeter(3)
    meter.update((torch.eye(3), torch.arange(3)))
    assert meter.result("abc").ece is None
    assert ClassificationMeter(3, calibration=True).result("abc").ece is None


def test_confusions_are_ranked_and_shared_out():
    meter = ClassificationMeter(3)
    logits = torch.eye(3)[[0, 1, 1, 2, 2, 2, 0]]
    meter.update((logits, torch.tensor([0, 0, 0, 0, 2, 1, 1])))
    result = meter.result(["a", "b", "c"])
    pairs = [(pair.true, pair.predicted, pair.count) for pair in result.confusions()]
    assert pairs == [("a", "b", 2), ("a", "c", 1), ("b", "a", 1), ("b", "c", 1)]
    assert [pair.share for pair in result.confusions(2)] == [50, 25]


def test_22k_classes_take_no_matrix():
    labels = torch.tensor([21_840, 3, 3])
    meter = ClassificationMeter(21_841)
    meter.update((F.one_hot(torch.tensor([21_840, 3, 21_839]), 21_841).float(), labels))
    result = meter.result([str(number) for number in range(21_841)])
    assert result.counts == ((3, 3, 1), (3, 21_839, 1), (21_840, 21_840, 1))
    assert [(pair.true, pair.predicted) for pair in result.confusions()] == [("3", "21839")]
    assert [row.num_images for row in result.per_class() if row.num_images] == [2, 1]


def test_the_loss_smooths_labels():
    batch = {"image": torch.randn(4, 6), "label": torch.tensor([0, 1, 2, 0])}
    model = nn.Linear(6, 3)
    loss = Classification(3, label_smoothing=0.1).loss(model, batch)
    expected = F.cross_entropy(model(batch["image"]), batch["label"], label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)


def test_predictions_are_ranked_and_named():
    predictions = top_classes(torch.tensor([[0.0, 2, 1]]), ["a", "b", "c"], ["x.png"], top=5)
    assert [score.name for score in predictions[0].scores] == ["b", "c", "a"]
    assert sum(score.probability for score in predictions[0].scores) == pytest.approx(1)
    assert (predictions[0].image, predictions[0].top.index) == ("x.png", 1)
