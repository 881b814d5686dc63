"""ImageNet's variants: which folders and labels they have, and which outputs count."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo, RealLabelsImagenet
from torch import Tensor, nn

from foveal.data.transforms import Preprocessing
from foveal.errors import FovealError
from foveal.tools.evaluate import Evaluation, evaluate_folder
from foveal.tools.labels import DatasetName, labelling_of
from foveal.tools.trained import ModelCard, TrainedModel, default_classes

PREPROCESSING = Preprocessing(image_size=32, mean=(0, 0, 0), std=(1, 1, 1), crop_pct=1.0)
NUMBERS = ImageNetInfo("imagenet-1k").label_names()


class Guess(NamedTuple):
    """A picture whose classes are written in its colour: the likeliest, and the next."""

    folder: str
    first: int
    second: int
    name: str = "image.png"


class ReadsColours(nn.Module):
    """Logits 10 and 5 for the two classes in a picture's colour."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        red, green, blue = (255 * x.mean((2, 3))).round().long().unbind(1)
        logits = torch.zeros(len(x), 1000)
        logits.scatter_(1, blue[:, None], 5.0)
        return self.scale * logits.scatter_(1, (red + 256 * green)[:, None], 10.0)


def trained(classes: tuple[str, ...] = default_classes(1000)) -> TrainedModel:
    card = ModelCard(model="a stub", classes=classes, preprocessing=PREPROCESSING)
    return TrainedModel(ReadsColours(), card, "here")


def judge(root: Path, dataset: DatasetName, guesses: Sequence[Guess]) -> Evaluation:
    for guess in guesses:
        colour = (guess.first % 256, guess.first // 256, guess.second)
        (root / guess.folder).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), colour).save(root / guess.folder / guess.name)
    return evaluate_folder(trained(), root, dataset=dataset)


@pytest.mark.parametrize("dataset", ["folder", "sketch", "imagenet-v2"])
def test_folders_are_wordnet_numbers(dataset: DatasetName, tmp_path: Path):
    guesses = [Guess(NUMBERS[7], 7, 0), Guess(NUMBERS[700], 700, 1), Guess(NUMBERS[9], 8, 9)]
    result = judge(tmp_path, dataset, guesses).result
    assert result.top1 == pytest.approx(200 / 3) and result.top5 == 100
    assert [(p.true, p.predicted) for p in result.confusions()] == [
        (default_classes(1000)[9], default_classes(1000)[8])
    ]


def test_v2_numbers_its_folders_by_class(tmp_path: Path):
    # As text, 10 sorts before 9.
    guesses = [Guess("9", 9, 0), Guess("10", 10, 0), Guess("999", 999, 0), Guess("2", 5, 6)]
    result = judge(tmp_path, "imagenet-v2", guesses).result
    assert result.top1 == 75
    with pytest.raises(FovealError, match=r"'1000'.*called n01440764 to n15075141 or 0 to 999"):
        judge(tmp_path, "imagenet-v2", [Guess("1000", 0, 0)])


@pytest.mark.parametrize(("dataset", "inside"), [("imagenet-a", 6), ("imagenet-r", 1)])
def test_a_and_r_count_their_200_classes_alone(dataset: DatasetName, inside: int, tmp_path: Path):
    # Class 0 is in neither, so a model that likes it best is judged by its next choice.
    guesses = [
        Guess(NUMBERS[inside], 0, inside),
        Guess(NUMBERS[inside], inside, 0, "b.png"),
        Guess(NUMBERS[inside], 988, inside, "c.png"),
    ]
    result = judge(tmp_path, dataset, guesses).result
    assert len(result.classes) == 200
    assert NUMBERS[988] in labelling_of(trained(), tmp_path, dataset).folders
    assert result.top1 == pytest.approx(200 / 3) and result.top5 == 100
    with pytest.raises(FovealError, match=r"'n01440764' .* its 200 class folders"):
        judge(tmp_path, dataset, [Guess(NUMBERS[0], 0, 0)])


def test_real_accepts_any_right_label_and_leaves_out_images_without(tmp_path: Path):
    table = RealLabelsImagenet([""] * 50_000).real_labels
    several = next(name for name, labels in table.items() if len(labels) == 2 and labels[1] < 256)
    single = next(name for name, labels in table.items() if len(labels) == 1)
    none = next(name for name, labels in table.items() if not labels)
    wrong = next(i for i in range(1000) if i not in table[several] + table[single])
    folder = NUMBERS[wrong]
    guesses = [
        Guess(folder, table[several][1], 0, several),
        Guess(folder, wrong, table[several][1], several.replace("JPEG", "jpeg")),
    ]
    with pytest.raises(FovealError, match="no image of ImageNet's validation set"):
        judge(tmp_path / "misnamed", "imagenet-real", guesses)
    evaluation = judge(
        tmp_path / "val",
        "imagenet-real",
        [guesses[0], Guess(folder, wrong, table[several][0], single), Guess(folder, 0, 0, none)],
    )
    result = evaluation.result
    assert (result.num_images, result.top1) == (2, 50)
    assert "less 1 for which no label is right" in evaluation.images
    assert [pair.predicted for pair in result.confusions()] == [default_classes(1000)[wrong]]


def test_reals_top5_is_any_right_label_among_five(tmp_path: Path):
    table = RealLabelsImagenet([""] * 50_000).real_labels
    name = next(name for name, labels in table.items() if len(labels) == 2 and labels[1] < 256)
    right = table[name]
    wrong = next(i for i in range(300, 1000) if i not in right)
    result = judge(tmp_path, "imagenet-real", [Guess("n01440764", wrong, right[1], name)]).result
    assert (result.top1, result.top5) == (0, 100)


def test_only_imagenets_classifiers_are_judged_by_its_variants(tmp_path: Path):
    (tmp_path / "red").mkdir()
    with pytest.raises(FovealError, match="imagenet-a judges classifiers of ImageNet's 1000"):
        labelling_of(trained(("red", "blue")), tmp_path, "imagenet-a")
    with pytest.raises(FovealError, match="has no classifier"):
        labelling_of(trained(()), tmp_path)
    (tmp_path / "red").rename(tmp_path / NUMBERS[6])
    assert labelling_of(trained(tuple(NUMBERS)), tmp_path, "imagenet-a").outputs is not None
