"""Blended labels and a teacher's, against their definitions."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.tasks.classification import Classification
from foveal.tasks.distillation import DistilledClassification, Teacher
from foveal.tasks.mixing import Mixing

IMAGES, LABELS = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 8, 8).clone(), torch.arange(5) % 3


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(cutmix=1.0)])
def test_labels_are_blended_as_images_are(mixing: Mixing) -> None:
    torch.manual_seed(0)
    images, targets = mixing.blend(IMAGES, LABELS, 3)
    one_hot = F.one_hot(LABELS, 3).float()
    # A roll by one image: the mean of each tells the share of the other.
    other = IMAGES.roll(1, 0).mean((1, 2, 3)) - IMAGES.mean((1, 2, 3))
    share = ((images.mean((1, 2, 3)) - IMAGES.mean((1, 2, 3))) / other)[:, None]
    torch.testing.assert_close(targets, (1 - share) * one_hot + share * one_hot.roll(1, 0))
    assert not torch.equal(images, IMAGES)


def test_no_blending_where_none_is_asked_for() -> None:
    torch.manual_seed(0)
    for mixing in (Mixing(), Mixing(mixup=1.0, probability=0.0)):
        images, labels = mixing.blend(IMAGES, LABELS, 3)
        assert images is IMAGES and labels is LABELS


def test_both_blends_take_turns() -> None:
    torch.manual_seed(0)
    both = Mixing(mixup=1.0, cutmix=1.0)
    # CutMix leaves every pixel what it was in one of the images.
    cut = sum(bool((both.blend(IMAGES, LABELS, 3)[0] % 1 == 0).all()) for _ in range(200))
    assert 60 < cut < 140


class Linear(nn.Module):
    """Logits that are a fixed function of the image's mean."""

    def __init__(self, weights: list[float]):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weights))

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))[:, None] * self.weight


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_the_teacher_sees_its_own_normalisation(kind: str) -> None:
    student, taught = Linear([1.0, 0.0, -1.0]), Linear([-1.0, 0.5, 2.0])
    teacher = Teacher(taught, (0.5,) * 3, (0.25,) * 3, (0.4,) * 3, (0.2,) * 3)
    task = DistilledClassification(
        3, 0.1, (), Mixing(), teacher=teacher, kind=kind, weight=0.3, temperature=2.0
    )
    loss = task.loss(student, {"image": IMAGES, "label": LABELS})
    pixels = IMAGES * 0.2 + 0.4
    logits, theirs = student(IMAGES), taught((pixels - 0.5) / 0.25)
    own = F.cross_entropy(logits, LABELS, label_smoothing=0.1)
    p = (theirs / 2).softmax(1)
    soft = 4 * (p * (p.log() - (logits / 2).log_softmax(1))).sum(1).mean()
    hard = F.cross_entropy(logits, theirs.argmax(1))
    torch.testing.assert_close(loss, 0.7 * own + 0.3 * (hard if kind == "hard" else soft))
    loss.backward()
    assert taught.weight.grad is None and student.weight.grad is not None


def test_sums_of_two_meters_are_those_of_one() -> None:
    task = Classification(3)
    logits, labels = (
        torch.randn(8, 3, generator=torch.Generator().manual_seed(0)),
        torch.arange(8) % 3,
    )
    whole, first, second = task.meter(), task.meter(), task.meter()
    whole.update((logits, labels))
    first.update((logits[:3], labels[:3]))
    second.update((logits[3:], labels[3:]))
    first.take_sums(first.sums() + second.sums())
    assert first.scores() == pytest.approx(whole.scores())
