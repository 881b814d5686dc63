"""What is drawn of a detector's work: pictures, curves, the page, and detections of files."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from foveal.errors import FovealError
from foveal.tasks.detection.meter import DetectionMeter
from foveal.tasks.detection.records import ImageRecord
from foveal.tools.detect import detect_images
from foveal.tools.report.charts import Line, unit_chart
from foveal.tools.report.detection import DetectionReport, write_detection_report
from foveal.tools.report.objects import Drawing, class_colour, drawn_objects
from tests.tasks.detection.toys import CLASSES, ToldDetector, answers_to, batches_of, scene

GREY = (120, 120, 120)


def picture_of(record: ImageRecord) -> Image.Image:
    height, width = record.size
    return Image.new("RGB", (width, height), GREY)


def judged(seed: int, *, masks: bool = True) -> DetectionMeter:
    content = scene(seed)
    model, meter = ToldDetector(answers_to(content, seed, masks=masks)), DetectionMeter(3)
    for batch in batches_of(content, masks=masks):
        sizes = batch["size"]
        names = batch["image_id"], batch["name"]
        meter.update((model.find(batch["image"]), batch["target"], sizes, sizes, *names))
    return meter


class Page(HTMLParser):
    """The elements of a page, with their attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_is_self_contained_and_says_in_words_what_it_shows(tmp_path: Path) -> None:
    meter = judged(0)
    result, records = meter.result(["ant", "<b>bee", "cat"]), meter.records()
    path = tmp_path / "report.html"
    write_detection_report(DetectionReport("R & D", result, records, picture_of, shown=3), path)
    text = path.read_text()
    page = Page(text)
    assert "<b>bee" not in text and "&lt;b&gt;bee" in text and "R &amp; D" in text
    images = page.all("img")
    assert len(images) == 2 * 6
    for image in images:
        assert (image["src"] or "").startswith("data:image/jpeg;base64,")
        assert re.match(r"\d+\.png, (there|found): (nothing|\d+ )", image["alt"] or "")
        assert int(image["width"] or 0) <= 460
    charts = page.all("svg")
    assert len(charts) == 2
    for chart, iou in zip(charts, ("0.5", "0.75"), strict=True):
        assert chart["role"] == "img" and f"overlap of {iou} and more" in (
            chart["aria-label"] or ""
        )
    assert f"ant {result.curves[0].precision.mean():.3f}" in (charts[0]["aria-label"] or "")
    assert not re.search(r"(src|href)=\"(?!data:)", text) and not page.all("script")
    assert result.masks is not None and result.boxes.map is not None
    assert f"<dd>{result.boxes.map:.3f}</dd>" in text and f"{result.masks.map:.3f}" in text
    assert len(page.all("polyline")) == 2 * 4


def test_the_worst_and_the_best_images_are_shown_once_each(tmp_path: Path) -> None:
    """By F1 at the threshold; the caption's figures are those of the image."""
    meter = judged(2)
    result, path = meter.result(CLASSES), tmp_path / "report.html"
    write_detection_report(DetectionReport("t", result, meter.records(), picture_of), path)
    captions = re.findall(r"<figcaption>(\S+): .*?F1 ([\d.]+)\)", path.read_text())
    assert len({name for name, _ in captions}) == len(captions) == 12
    worst, best = ([float(f1) for _, f1 in part] for part in (captions[:6], captions[6:]))
    assert worst == sorted(worst) and best == sorted(best, reverse=True)
    assert worst[-1] <= min(best) and worst[0] < best[0]


def test_a_page_without_objects_and_one_with_many_classes(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    nothing = DetectionMeter(2).result(["a", "b"])
    write_detection_report(DetectionReport("t", nothing, (), picture_of), path)
    text = path.read_text()
    assert "nothing to find" in text and text.count("<p>None.</p>") == 2
    meter = DetectionMeter(40)
    meter.merge([judged(2, masks=False).state()])
    result = meter.result([f"class {index}" for index in range(40)])
    write_detection_report(DetectionReport("t", result, meter.records(), picture_of), path)
    text = path.read_text()
    assert "10 are left out" in text
    assert text.count('class="none"') > 800 and len(Page(text).all("img")) == 24


def test_boxes_masks_and_labels_are_drawn_in_the_classes_colours() -> None:
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 4:30, 4:40], masks[1, 10:36, 20:56] = True, True
    boxes = np.array([[4.0, 4, 40, 30], [20, 10, 56, 36]])
    drawing = Drawing(boxes, [0, 2], ["", ""], masks)
    shown = np.asarray(drawn_objects(Image.new("RGB", (60, 40), GREY), drawing, 120)).astype(int)
    assert shown.shape == (80, 120, 3)
    assert tuple(shown[30, 8]) == class_colour(0) and tuple(shown[70, 80]) == class_colour(2)
    assert tuple(shown[2, 2]) == GREY
    alone, other, both = shown[40, 16], shown[50, 100], shown[40, 60]
    for seen, label in ((alone, 0), (other, 2)):
        expected = 0.6 * np.array(GREY) + 0.4 * np.array(class_colour(label))
        assert np.abs(seen - expected).max() <= 2
    # Where masks overlap, both shine through.
    first = 0.6 * np.array(GREY) + 0.4 * np.array(class_colour(0))
    second = 0.6 * np.array(GREY) + 0.4 * np.array(class_colour(2))
    either = [
        0.6 * under + 0.4 * np.array(class_colour(over))
        for under, over in ((first, 2), (second, 0))
    ]
    assert min(np.abs(both - expected).max() for expected in either) <= 3


def test_a_picture_without_objects_is_drawn_as_it_is() -> None:
    """Without a warning, too."""
    empty = Drawing(np.zeros((0, 4)), [], [], np.zeros((0, 8, 8), bool))
    shown = drawn_objects(Image.new("L", (8, 8), 120), empty, 16)
    assert np.asarray(shown).shape == (16, 16, 3) and (np.asarray(shown) == 120).all()


def test_classes_have_colours_of_their_own() -> None:
    colours = [np.array(class_colour(label)) for label in range(80)]
    assert len({tuple(c.tolist()) for c in colours}) == 80
    apart = min(np.abs(a - b).sum() for i, a in enumerate(colours[:12]) for b in colours[:i])
    assert apart > 40


def test_a_curve_goes_through_the_corners_of_the_chart() -> None:
    line = Line(np.array([0.0, 1.0]), np.array([1.0, 0.0]), (1, 2, 3), "falling")
    text = unit_chart("t", "x", "y", [line], "a line")
    assert 'points="52.0,30.0 352.0,330.0"' in text and "rgb(1, 2, 3)" in text


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{index}.png" for index in (1, 2)]
    for index, path in enumerate(paths, start=1):
        Image.new("RGB", (60, 40), (index, 0, 0)).save(path)
    return paths


def half_size(picture: Image.Image, target: dict[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
    """The network sees half of the sides; the number of the image stays in the first pixel."""
    return pil_to_tensor(picture)[:, ::2, ::2].float(), target


def told() -> ToldDetector:
    masks = torch.zeros(3, 20, 30, dtype=torch.bool)
    masks[:, 5:10, 5:15] = True
    found: Any = {
        "boxes": torch.tensor([[5.0, 5, 15, 10], [0, 0, 30, 20], [1, 1, 2, 2]]),
        "labels": torch.tensor([1, 0, 2]),
        "scores": torch.tensor([0.9, 0.6, 0.2]),
        "masks": masks,
    }
    nothing: Any = {key: value[:0] for key, value in found.items()}
    return ToldDetector({1: found, 2: nothing})


def test_detections_are_in_pixels_of_the_file(files: list[Path]) -> None:
    detector = told().train()
    done: list[tuple[int, int]] = []
    first, second = detect_images(
        detector,
        files,
        classes=CLASSES,
        transform=half_size,
        batch_size=1,
        on_done=lambda *told: done.append(told),
    )
    assert done == [(1, 2), (2, 2)]
    assert not detector.training
    assert first.image == str(files[0]) and first.size == (40, 60)
    assert first.names == ("bee", "ant") and first.labels.tolist() == [1, 0]
    assert first.boxes.tolist() == [[10, 10, 30, 20], [0, 0, 60, 40]]
    assert first.scores.tolist() == pytest.approx([0.9, 0.6])
    assert first.masks is not None and first.masks.shape == (2, 40, 60)
    assert first.masks[0, 12:18, 12:28].all() and not first.masks[0, :8].any()
    assert len(second) == 0 and second.masks is not None and second.masks.shape == (0, 40, 60)
    every = detect_images(
        told(), files[:1], classes=CLASSES, transform=half_size, score_threshold=0
    )
    assert len(every[0]) == 3
    plain = json.loads(json.dumps(first.to_dict()))
    assert plain["boxes"] == first.boxes.tolist() and plain["run_lengths"][0]["size"] == [40, 60]
    drawn = np.asarray(first.drawn(Image.open(files[0]), side=240))
    # The lower edge of the box.
    assert tuple(drawn[79, 80]) == class_colour(1)


def test_detections_refuse_what_does_not_fit(files: list[Path], tmp_path: Path) -> None:
    def detect(paths: list[Path], **changed: Any) -> None:
        detect_images(told(), paths, **{"classes": CLASSES, "transform": half_size, **changed})

    with pytest.raises(FovealError, match="2 names of classes for a detector of 3"):
        detect(files, classes=["a", "b"])
    with pytest.raises(FovealError, match=r"in \[0, 1\]"):
        detect(files, score_threshold=50)
    (tmp_path / "bad.png").write_text("no image")
    with pytest.raises(FovealError, match=r"bad\.png is not an image"):
        detect([*files, tmp_path / "bad.png"])
