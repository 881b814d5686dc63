"""A small network that is always right, images of its classes, and a way to make it fragile."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from foveal.data.dataset import Samples
from foveal.data.transforms import Preprocessing, eval_transform
from foveal.tools.evaluate import EvaluationImages
from foveal.tools.labels import Labelling
from foveal.tools.trained import ModelCard, TrainedModel
from tests.models.families import shallow

SIDE = 64
PREPROCESSING = Preprocessing(
    image_size=SIDE, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), crop_pct=1.0
)
CLASSES = tuple(f"kind {i}" for i in range(10))
OPTIONS = {"attention_depth": (0, 0, 0, 1)}


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Coloured patches, coarse and fine, with noise."""
    draw = np.random.default_rng(seed)
    found = []
    for index in range(count):
        cells = 2 ** (1 + index % 4)
        patches = draw.integers(0, 255, (cells, cells, 3)).repeat(SIDE // cells, 0)
        noise = draw.integers(-20, 20, (SIDE, SIDE, 3))
        whole = np.clip(patches.repeat(SIDE // cells, 1) + noise, 0, 255)
        found.append(Image.fromarray(whole.astype(np.uint8)))
    return found


def inputs(images: list[Image.Image]) -> torch.Tensor:
    """What a network is given of them."""
    transform = eval_transform(PREPROCESSING)
    return torch.stack([transform(image) for image in images])


def network() -> TrainedModel:
    """A shallow EfficientMod whose classes are all about as likely."""
    model = shallow("efficientmod_xxs", **OPTIONS)
    with torch.no_grad():
        logits = model(inputs(pictures(40, seed=1)))
        model.head.fc.weight.div_(logits.std(0, keepdim=True).T)  # pyright: ignore
        centre = model(inputs(pictures(40, seed=1))).mean(0)
        model.head.fc.bias.sub_(centre)  # pyright: ignore
    card = ModelCard(
        model="efficientmod_xxs",
        options={"depths": [2, 1, 1, 1], **OPTIONS},
        classes=CLASSES,
        preprocessing=PREPROCESSING,
    )
    return TrainedModel(model.eval(), card, "the test")


def judged_by(trained: TrainedModel, count: int = 40) -> EvaluationImages:
    """Images whose right class is what the network says in float."""
    images = pictures(count, seed=2)
    with torch.inference_mode():
        labels = trained.model(inputs(images)).argmax(-1).tolist()
    samples = Samples(images, labels, [f"picture {i}" for i in range(count)])
    return EvaluationImages(samples, Labelling(folders=CLASSES, names=CLASSES), "drawn ones")


def make_fragile(model: nn.Module, factor: float = 3e4) -> str:
    """Give one channel of the last map huge values, which the classifier scales down.

    In float nothing changes; in 8 bits one scale has to serve all channels of what it is given.

    Returns:
        name of the layer that is harmed.
    """
    norm, classifier = model.get_submodule("norm"), model.get_submodule("head.fc")
    with torch.no_grad():
        norm.weight[0] *= factor  # pyright: ignore
        norm.bias[0] *= factor  # pyright: ignore
        classifier.weight[:, 0] /= factor  # pyright: ignore
    return "head.fc"
