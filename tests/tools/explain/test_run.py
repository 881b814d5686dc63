"""Models over images: what is shown of each, what is said, and live queries."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from foveal.data.transforms import Preprocessing
from foveal.errors import FovealError, OptionError
from foveal.tools.explain.names import distinct_names
from foveal.tools.explain.picture import Picture, read_picture, seen_part
from foveal.tools.explain.run import ExplainSettings, explain_images, place_of
from foveal.tools.explain.views import CurveView, MapView, QueryView
from foveal.tools.predict import predict_images
from foveal.tools.trained import TrainedModel, model_by_name
from tests.pictures import write_folder

SMALL = {"depths": (1, 1, 1, 1), "num_classes": 7}
QUICK = ExplainSettings(top=3, queries=2)


def noise(name: str = "noise.png", size: tuple[int, int] = (80, 64)) -> Picture:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8)
    return Picture(name, Image.fromarray(pixels))


def small(name: str, image_size: int = 64, **options: object) -> TrainedModel:
    torch.manual_seed(0)
    return model_by_name(name, image_size=image_size, options={**SMALL, **options})


def test_models_beside_each_other() -> None:
    models = [small("transnext_micro"), small("cloformer_xxs", depths=(2, 2, 2, 1))]
    told = []
    pictures = [noise(), noise("b.png", (64, 90))]
    explained = explain_images(models, pictures, QUICK, lambda *done: told.append(done))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    images = explained.explanation.images
    assert [image.name for image in images] == ["noise.png", "b.png"]
    for image in images:
        transnext, cloformer = image.models
        assert [b.path for b in transnext.blocks] == [
            f"stages.{i}.blocks.0.mixer" for i in range(4)
        ]
        # The channel mixer's gate comes with the block that it belongs to.
        assert "gate" in [view.title for view in transnext.blocks[0].views]
        assert [(b.stage, b.block) for b in cloformer.blocks][:2] == [(0, 0), (1, -1)]
        assert [b.block for b in cloformer.last_blocks] == [0, 0, 0, 0]
        for model in image.models:
            assert len(model.scores) == 3 and not model.is_trained and model.note is None
            assert model.picture.width == model.picture.height
            assert model.activation is not None and model.activation.values.shape == (1, 64, 64)
            assert model.activation.labels == (model.scores[0].name,)


def test_a_network_without_readings_is_shown_with_what_applies() -> None:
    trained = model_by_name("timm:resnet10t", image_size=64, options={"num_classes": 5})
    settings = ExplainSettings(faithfulness=True, receptive_field=True)
    (image,) = explain_images([trained], [noise()], settings).explanation.images
    (model,) = image.models
    assert model.blocks == () and "No mixer with readings" in (model.note or "")
    assert model.activation is not None
    curves, field = model.views
    assert isinstance(curves, CurveView) and len(curves.labels) == 4
    assert isinstance(field, MapView) and not field.over_image
    assert "blockiness" in field.about and field.values.shape == (1, 64, 64)


def test_without_a_classifier() -> None:
    trained = small("efficientmod_xxs", num_classes=0)
    (image,) = explain_images([trained], [noise()], QUICK).explanation.images
    assert image.models[0].scores == () and image.models[0].activation is None
    assert image.models[0].blocks


def test_a_large_input_is_reduced_and_said() -> None:
    trained = small("efficientmod_xxs", image_size=1024)
    settings = replace(QUICK, method=None)
    (image,) = explain_images([trained], [noise()], settings).explanation.images
    assert image.models[0].input_size == (512, 512)
    assert "512 pixels a side instead of 1024" in (image.models[0].note or "")


def test_live_queries_are_those_of_the_page() -> None:
    kept = replace(QUICK, keep_readings=True)
    explained = explain_images([small("transnext_micro")], [noise()], kept)
    block = explained.explanation.images[0].models[0].blocks[1]
    view = block.views[0]
    assert isinstance(view, QueryView)
    shown = view.queries[1][0]
    y, x = ((at + 0.5) / n for at, n in zip(shown.query, shown.size, strict=True))
    asked = explained.query(0, 0, block.path, view.title, y, x)
    assert asked.query == shown.query and asked.num_heads == len(view.labels)
    assert asked.window is not None and shown.window is not None
    np.testing.assert_array_equal(asked.window, shown.window)
    # The last fraction is still on the map.
    assert explained.query(0, 0, block.path, view.title, 1.0, 1.0).query == (7, 7)
    for wrong in ((1, 0, block.path), (0, 5, block.path), (0, -1, block.path), (0, 0, "head")):
        with pytest.raises(FovealError, match="There is no"):
            explained.query(*wrong, view.title, 0.5, 0.5)
    with pytest.raises(FovealError, match="There is no 'gates'"):
        explained.query(0, 0, block.path, "gates", 0.5, 0.5)


def test_readings_are_let_go_unless_they_are_kept() -> None:
    explained = explain_images([small("efficientmod_xxs")], [noise()], QUICK)
    assert [len(recording) for row in explained.recordings for recording in row] == [0]
    assert explained.explanation.images[0].models[0].blocks


def test_a_mixer_outside_of_the_stages_stands_apart() -> None:
    class Stem(torch.nn.Module):
        def __init__(self, stem: torch.nn.Module):
            super().__init__()
            self.stem = stem

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.stem(x)

        def readings(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"mine": self.stem(x)}

    trained = small("focalnet_tiny_srf")
    trained.model.stem = Stem(trained.model.get_submodule("stem"))
    (image,) = explain_images([trained], [noise()], QUICK).explanation.images
    apart, *others = image.models[0].blocks
    assert (apart.path, apart.stage, apart.block, apart.kind) == ("stem", -1, 0, "other")
    assert [view.title for view in apart.views] == ["mine"]
    assert [block.path for block in others] == [f"stages.{i}.blocks.0.mixer" for i in range(4)]
    assert all(block.stage >= 0 for block in image.models[0].last_blocks)


def test_a_wide_picture_is_seen_as_predict_sees_it(tmp_path: Path) -> None:
    """Only its middle is looked at, so that its length is no reason to make it smaller."""
    pixels = np.random.default_rng(1).integers(0, 255, (300, 6000, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    trained = small("efficientmod_xxs")
    (predicted,) = predict_images(trained, [tmp_path / "wide.png"], top=3)
    picture = read_picture(tmp_path / "wide.png")
    (image,) = explain_images([trained], [picture], QUICK).explanation.images
    assert list(image.models[0].scores) == list(predicted.scores)
    assert picture.notices == ()


def test_progress_counts_receptive_fields() -> None:
    told = []
    settings = replace(QUICK, method=None, receptive_field=True)
    models = [small("efficientmod_xxs"), small("focalnet_tiny_srf", embed_dim=8)]
    explained = explain_images(models, [noise(), noise()], settings, lambda *n: told.append(n))
    assert told == [(i, 8) for i in range(1, 9)]
    assert [len(m.views) for image in explained.explanation.images for m in image.models] == [1] * 4


def test_nothing_to_explain_and_wrong_settings() -> None:
    with pytest.raises(FovealError, match="at least one model"):
        explain_images([], [noise()])
    with pytest.raises(FovealError, match="queries is 1 or more"):
        ExplainSettings(queries=0)
    with pytest.raises(OptionError, match="method is one of gradcam"):
        ExplainSettings(method="gradcamm")
    with pytest.raises(OptionError, match="give a method"):
        ExplainSettings(method=None, faithfulness=True)


def test_a_network_of_fixed_size_says_so() -> None:
    trained = model_by_name("timm:vit_tiny_patch16_224", image_size=96, options={"num_classes": 3})
    with pytest.raises(FovealError, match=r"does not take an image of 96 × 96 pixels: .*--image-s"):
        explain_images([trained], [noise()], QUICK)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("stages.2.blocks.11.mixer", (2, 11)),
        ("stages.1.downsample.mixer", (1, -1)),
        ("backbone.stages.0.blocks.3.channel_mixer", (0, 3)),
        ("head.fc", None),
    ],
)
def test_places(path: str, place: tuple[int, int] | None) -> None:
    assert place_of(path) == place


def test_the_part_that_is_seen() -> None:
    preprocessing = Preprocessing(image_size=64, mean=(0.5,), std=(0.5,), crop_pct=0.5)
    image = Image.new("RGB", (200, 100), "black")
    image.paste("white", (75, 25, 125, 75))
    part = seen_part(image, preprocessing)
    assert part.size == (64, 64) and np.asarray(part).min() == 255
    assert seen_part(image.resize((4000, 2000)), preprocessing).size == (448, 448)


def test_pictures_say_what_was_done_to_them(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("L", (3000, 2100)).save(tmp_path / "a.jpg", exif=exif)
    Image.new("RGBA", (40, 60)).save(tmp_path / "b.png")
    Image.new("RGBA", (40, 60), (9, 9, 9, 255)).save(tmp_path / "e.png")
    Image.new("CMYK", (40, 60)).save(tmp_path / "c.jpg")
    Image.fromarray(np.full((9, 9), 60000, np.uint16)).save(tmp_path / "d.png")
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.image.size == (2048, 2926) and picture.image.mode == "RGB"
    assert picture.notices == (
        "Reduced from 2100 × 3000 to 2048 × 2926 pixels.",
        "Turned as its EXIF data ask for.",
        "Grey, shown as colour.",
    )
    assert read_picture(tmp_path / "b.png").notices == ("Transparent parts lie on white.",)
    assert read_picture(tmp_path / "e.png").notices == ()
    assert read_picture(tmp_path / "c.jpg").notices == ("Converted from CMYK.",)
    assert read_picture(tmp_path / "d.png").notices == ("16-bit grey, scaled to 8 bits.",)
    folder = write_folder(tmp_path / "plain")
    assert read_picture(next(folder.rglob("*.png"))).notices == ()


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/x.jpg", "a/y.jpg"], ["x.jpg", "y.jpg"]),
        (["a/x.jpg", "b/x.jpg", "y.jpg"], ["a/x.jpg", "b/x.jpg", "y.jpg"]),
        (["c/a/x.jpg", "d/a/x.jpg"], ["c/a/x.jpg", "d/a/x.jpg"]),
        (["x.jpg", "a/x.jpg"], ["x.jpg", "a/x.jpg"]),
        (["x.jpg", "x.jpg"], ["x.jpg", "x.jpg (2)"]),
    ],
)
def test_names_tell_pictures_apart(paths: list[str], names: list[str]) -> None:
    assert distinct_names([Path(path) for path in paths]) == names


def test_a_name_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"b\xff.png")
    Image.new("RGB", (9, 9)).save(path)
    assert read_picture(path).name == "b\ufffd.png"
