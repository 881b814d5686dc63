"""Judging scenes, and the page about it."""

import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from foveal.errors import FovealError
from foveal.tools.report.class_colours import class_colours, seen_as
from foveal.tools.report.scenes import scene_report, write_scene_report
from foveal.tools.scenes import SceneEvaluation, SceneSettings, judge_scenes
from foveal.tools.segment import SegmentInference

CLASSES = ("sky", "road & kerb", "<tree>", "car")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SETTINGS = SceneSettings(mean=MEAN, std=STD)


class Bands(nn.Module):
    """Takes the left half for class 0 and the right for class 1, but nothing for the others."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        scores = images.new_zeros(len(images), len(CLASSES), *images.shape[-2:])
        half = images.shape[-1] // 2
        scores[:, 0, :, :half] = self.weight
        scores[:, 1, :, half:] = self.weight
        return scores


class Many(Bands):
    """The same among more classes, which it never finds."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.more = num_classes - len(CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.pad(super().forward(images), (0, 0, 0, 0, 0, self.more))


def batches(wrong: list[int]) -> list[dict[str, Any]]:
    """One image each, whose first rows are of class 2; what is left is as `Bands` has it."""
    made = []
    for number, rows in enumerate(wrong):
        labels = torch.zeros(1, 40, 60).long()
        labels[..., 30:] = 1
        labels[:, :rows] = 2
        labels[:, -1] = 255
        image = torch.full((1, 3, 40, 60), float(number) / 10)
        made.append(
            {"image": image, "label": labels, "name": [f"/photographs/scene {number} <1>.jpg"]}
        )
    return made


def judged(wrong: list[int], shown: int = 2, **inference: Any) -> SceneEvaluation:
    settings = SceneSettings(
        mean=MEAN, std=STD, shown=shown, inference=SegmentInference(**inference)
    )
    return judge_scenes(Bands(), batches(wrong), CLASSES, settings)


def test_where_none_is_to_be_shown_none_is_kept():
    evaluation = judged([3, 0, 20], shown=0)
    assert (evaluation.worst, evaluation.best) == ((), ()) and len(evaluation.ious) == 3


def test_the_worst_and_the_best_are_kept_in_order():
    evaluation = judged([3, 0, 20, 10, 30, 1])
    assert [Path(scene.name).name[:7] for scene in evaluation.worst] == ["scene 4", "scene 2"]
    assert [Path(scene.name).name[:7] for scene in evaluation.best] == ["scene 1", "scene 5"]
    assert evaluation.best[0].iou == 100
    assert len(evaluation.ious) == evaluation.result.num_images == 6
    # 39 rows count: 9 of them right, in both classes; the third has none right.
    assert evaluation.worst[0].iou == pytest.approx(100 * 2 * (9 / 39) / 3)


def test_few_images_are_shown_once():
    evaluation = judged([3, 0, 20], shown=2)
    names = [Path(scene.name).name[:7] for scene in (*evaluation.worst, *evaluation.best)]
    assert names == ["scene 2", "scene 0", "scene 1"]


def test_the_pictures_are_the_images_before_normalisation():
    scene = judged([0, 0, 5]).worst[0]
    expected = [round(255 * (0.2 * s + m)) for m, s in zip(MEAN, STD, strict=True)]
    assert (scene.image == np.array(expected)).all()
    assert scene.image.shape == (40, 60, 3)
    assert scene.labels.shape == scene.predicted.shape == (40, 60)


def test_labels_of_another_size_than_the_image():
    batch = batches([4])[0]
    batch["image"] = batch["image"][..., ::2, ::2]
    evaluation = judge_scenes(Bands(), [batch], CLASSES, SETTINGS)
    assert evaluation.worst[0].image.shape == (40, 60, 3)
    assert evaluation.result.confusion.sum() == 39 * 60


def test_an_image_without_labels_is_counted_and_not_ranked():
    made = batches([5, 0])
    made[1]["label"][:] = 255
    evaluation = judge_scenes(Bands(), made, CLASSES, SETTINGS)
    assert [Path(name).name[:7] for name, _ in evaluation.ious] == ["scene 0"]
    assert evaluation.result.num_images == 2
    with pytest.raises(FovealError, match="ignore_index"):
        judge_scenes(Bands(), made[1:], CLASSES, SETTINGS)


class Seen(HTMLParser):
    """Alternative texts, sources, headings and all text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.alts: list[str] = []
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def pictures(self) -> list[tuple[str, str]]:
        return [*zip(self.sources, self.alts, strict=True)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        if tag == "img":
            self.alts.append(values.get("alt") or "")
            self.sources.append(values.get("src") or "")
        assert tag not in {"script", "link", "iframe"}

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def test_the_page_shows_and_says_everything(tmp_path: Path):
    evaluation = judged([3, 0, 20, 10, 30, 1], window=128, stride=100, scales=(1.0, 2.0))
    path = tmp_path / "pages" / "scenes.html"
    write_scene_report(evaluation, path, title="Streets <1>", subject="UPerNet on a & b")
    seen = Seen(path.read_text())
    text = " ".join(seen.words)
    assert len(seen.alts) == 4 * 4
    assert all(source.startswith("data:image/png;base64,") for source in seen.sources)
    assert "mistakes in scene 4 <1>.jpg: 76.9 % of the pixels" in seen.alts
    # With the 30 rows of class 2 half of what is left is class 0.
    assert "labels of scene 4 <1>.jpg: 77 % <tree>, 12 % sky, 12 % road & kerb" in seen.alts
    for words in (
        "Streets <1>",
        "UPerNet on a & b, judged on 6 images and 14,040 pixels",
        "windows of 128 pixels a side, 100 pixels apart, averaged; scales 1, 2.",
        f"{evaluation.result.miou:.1f} %",
        "scene 4 <1>.jpg: IoU 15.4 %, 76.9 % of the pixels mistaken; least <tree> 0 %",
        "none",
        "The commonest",
    ):
        assert words in text, words
    assert seen.tags.count("table") == 3
    assert "<tree>" not in path.read_text()
    assert "/photographs" not in path.read_text()


@pytest.mark.parametrize("num_classes", [4, 300])
def test_label_maps_have_the_classes_colours(num_classes: int):
    classes = (*CLASSES, *(f"class {i}" for i in range(4, num_classes)))
    evaluation = judge_scenes(Many(num_classes), batches([10]), classes, SETTINGS)
    page = scene_report(evaluation, title="Colours", subject="One")
    source = next(s for s, alt in Seen(page).pictures() if alt.startswith("labels"))
    content = base64.b64decode(source.removeprefix("data:image/png;base64,"))
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    colours = class_colours(num_classes)
    assert pixels.shape == (40, 60, 3)
    assert (pixels[:10] == colours[2]).all()
    assert (pixels[10:39, :30] == colours[0]).all() and (pixels[10:39, 30:] == colours[1]).all()
    assert (pixels[39] == 0).all()


def test_many_classes_leave_the_table_legible():
    classes = tuple(f"class {i}" for i in range(60))
    evaluation = judge_scenes(Many(60), batches([5, 3]), classes, SETTINGS)
    text = " ".join(Seen(scene_report(evaluation, title="Many", subject="One")).words)
    assert "the 30 classes of the most mistakes; 30 are left out" in text


@pytest.mark.parametrize(("count", "least"), [(2, 60), (11, 25), (20, 15)])
def test_colours_are_told_apart_with_any_common_colour_vision(count: int, least: float):
    # Distances in CIE Lab, of which about 2.3 can just be noticed.
    places = seen_as(class_colours(count))
    distances = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
    distances[:, np.arange(count), np.arange(count)] = np.inf
    assert distances.min() > least
    assert (class_colours(count + 5)[:count] == class_colours(count)).all()


def test_colours_are_those_of_the_standard():
    lab = pytest.importorskip("skimage.color").rgb2lab(class_colours(40) / 255)
    np.testing.assert_allclose(seen_as(class_colours(40))[0], lab, atol=0.05)
