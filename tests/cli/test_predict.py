"""`foveal predict`: classifiers of ImageNet speak its class names."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from timm.data import ImageNetInfo

import foveal as library
from foveal.tools.trained import card_of, default_classes
from foveal.train.checkpoint import write_weights
from tests.cli.conftest import Foveal

NAME = "efficientmod_xxs"
TABBY = ImageNetInfo("imagenet-1k").label_names().index("n02123045")


@pytest.fixture(scope="module")
def sees_cats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 1000 classes that takes everything for a tabby."""
    model = library.create_model(NAME)
    model.get_parameter("head.fc.bias").data[TABBY] = 100.0
    path = tmp_path_factory.mktemp("weights") / "cats.safetensors"
    write_weights(path, model.state_dict(), card_of(model, NAME, {}, image_size=32).to_metadata())
    return path


def test_a_thousand_classes_have_imagenets_names(foveal: Foveal, folder: Path, sees_cats: Path):
    outcome = foveal("predict", folder / "red" / "000.png", "--checkpoint", sees_cats)
    assert outcome.code == 0
    assert outcome.out.splitlines()[1].strip() == "100.0 %  tabby, tabby cat"
    json_ = foveal("predict", folder / "red" / "000.png", "--checkpoint", sees_cats, "--json=-")
    first = json.loads(json_.out)[0]["scores"][0]
    assert (first["index"], first["name"]) == (TABBY, "tabby, tabby cat")


def test_published_files_without_a_card_have_them_too(
    foveal: Foveal, folder: Path, sees_cats: Path, tmp_path: Path
):
    torch.save(load_file(sees_cats), tmp_path / "cats.pth")
    command = ["predict", folder / "red" / "000.png", "--checkpoint", tmp_path / "cats.pth"]
    outcome = foveal(*command, "--model", NAME, "--image-size=32")
    assert outcome.code == 0 and "tabby, tabby cat" in outcome.out


@pytest.mark.parametrize(("number", "name"), [(1000, "tench, Tinca tinca"), (7, "class 0")])
def test_only_imagenets_counts_have_names(number: int, name: str):
    names = default_classes(number)
    assert names[0] == name and len(names) == number
