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
