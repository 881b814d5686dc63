"""Learning from a teacher's outputs beside the labels."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.tasks.classification import Classification
from foveal.tasks.mixing import Mixing


class Teacher:
    """A trained network, given the student's input in its own normalisation.

    Args:
        model: logits of the student's classes.
        mean, std: per channel, that the teacher was trained with.
        student_mean, student_std: per channel, of the images it is given.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        student_mean: Sequence[float],
        student_std: Sequence[float],
    ):
        self.model = model.eval().requires_grad_(False)
        means, stds = torch.tensor([mean, student_mean]), torch.tensor([std, student_std])
        self.scale = (stds[1] / stds[0])[:, None, None]
        self.shift = ((means[1] - means[0]) / stds[0])[:, None, None]

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        self.model.to(images.device)
        scale, shift = (t.to(images.device, images.dtype) for t in (self.scale, self.shift))
        return self.model(images * scale + shift)


class DistilledClassification(Classification):
    """Cross-entropy with the labels, and with what the teacher makes of the same images.

    (1 − w) · CE(student, labels) + w · T, where T is CE(student, argmax teacher), "hard", or
    τ² · KL(softmax(teacher/τ) ‖ softmax(student/τ)), "soft".

    Args:
        teacher: of the same classes.
        kind: "hard" or "soft".
        weight: w.
        temperature: τ.
        (the others): as of `Classification`.
    """

    def __init__(
        self,
        num_classes: int,
        label_smoothing: float,
        image_names: Sequence[str],
        mixing: Mixing,
        *,
        teacher: Teacher,
        kind: str,
        weight: float,
        temperature: float,
    ):
        super().__init__(num_classes, label_smoothing, image_names, mixing)
        self.teacher, self.kind = teacher, kind
        self.weight, self.temperature = weight, temperature

    def loss(self, model: nn.Module, batch: Mapping[str, Any]) -> Float[Tensor, ""]:
        images, targets = self.mixing.blend(batch["image"], batch["label"], self.num_classes)
        logits, taught = model(images).float(), self.teacher(images).float()
        return (1 - self.weight) * self.cross_entropy(logits, targets) + self.weight * self.taught(
            logits, taught
        )

    def taught(
        self, logits: Float[Tensor, "b classes"], taught: Float[Tensor, "b classes"]
    ) -> Float[Tensor, ""]:
        """T, of the student's and the teacher's logits."""
        if self.kind == "hard":
            return F.cross_entropy(logits, taught.argmax(1))
        t = self.temperature
        student, teacher = (logits / t).log_softmax(1), (taught / t).log_softmax(1)
        return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * t**2
