"""COCO's figures, against pycocotools on the same files; confusions, against counts by hand."""

import contextlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from foveal.errors import FovealError
from foveal.tasks.detection.average_precision import AveragePrecision
from foveal.tasks.detection.matching import best_threshold, match
from foveal.tasks.detection.meter import DetectionMeter
from foveal.tasks.detection.records import FoundObjects, ImageRecord, TrueObjects, decode_masks
from foveal.tasks.detection.results_file import write_detections
from foveal.tasks.detection.task import Detection
from foveal.tasks.detection.truths import read_truths, truths_of
from tests.tasks.detection.toys import (
    CATEGORY_IDS,
    CLASSES,
    ToldDetector,
    answers_to,
    batches_of,
    scene,
)


def judged(
    content: dict[str, Any], answers: dict[int, Any], *, masks: bool = True, exact: bool = True
) -> DetectionMeter:
    """The meter after all batches; by the annotations themselves, or by the samples' targets."""
    task = Detection(len(CLASSES), masks=masks, truths=truths_of(content) if exact else None)
    model, meter = ToldDetector(answers), task.meter()
    for batch in batches_of(content, masks=masks):
        meter.update(task.predict(model, batch))
    return meter


def by_pycocotools(annotations: Path, results: Path, kind: Literal["bbox", "segm"]) -> COCOeval:
    with contextlib.redirect_stdout(None):
        truth = COCO(str(annotations))
        judge = COCOeval(truth, truth.loadRes(str(results)), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


def assert_equal(figures: AveragePrecision, stats: np.ndarray) -> None:
    mine = [-1.0 if value is None else value for value in asdict(figures).values()]
    np.testing.assert_allclose(mine, stats, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_figures_equal_pycocotools_on_the_same_files(seed: int, tmp_path: Path) -> None:
    """With crowds, images without objects, equal scores, and in odd scenes a class of no object."""
    content = scene(seed)
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(content))
    meter = judged(content, answers_to(content, seed))
    files = write_detections(meter.records(), CATEGORY_IDS, tmp_path)
    result = meter.result(CLASSES)
    assert result.masks is not None
    boxes = by_pycocotools(annotations, files[0], "bbox")
    masks = by_pycocotools(annotations, files[1], "segm")
    assert 0.05 < boxes.stats[0] < 0.95 and 0.05 < masks.stats[0] < 0.95
    assert_equal(result.boxes, boxes.stats)
    assert_equal(result.masks, masks.stats)
    precision = boxes.eval["precision"]
    for k, row in enumerate(result.per_class):
        known = precision[:, :, k, 0, 2]
        mean = known[known > -1].mean() if (known > -1).any() else None
        assert row.map == (mean if mean is None else pytest.approx(mean, abs=1e-6))
    assert [row.num_objects == 0 for row in result.per_class] == [False, False, bool(seed % 2)]
    for curve in result.curves:
        place = 0 if curve.iou == 0.5 else 5
        expected = precision[place, :, CLASSES.index(curve.name), 0, 2]
        np.testing.assert_allclose(curve.precision, expected, rtol=0, atol=1e-6)
    assert len(result.curves) == 2 * (2 if seed % 2 else 3)


@pytest.mark.parametrize("exact", [True, False])
def test_the_annotations_and_the_samples_targets_give_the_same_figures(exact: bool) -> None:
    """Where the network sees the pictures at their own size, and objects have masks."""
    content = scene(2)
    meter = judged(content, answers_to(content, 2), exact=exact)
    expected = judged(content, answers_to(content, 2)).scores()
    assert meter.scores() == pytest.approx(expected, abs=1e-6)
    assert {"map", "map_50", "map_75", "mask_map", "mask_map_50"} <= set(expected)


def test_boxes_are_judged_in_pixels_of_the_original_picture() -> None:
    """An image seen at 2.5 times its size is judged as at its own: areas and files, too."""
    content = scene(4)
    answers = answers_to(content, 4, masks=False)
    task = Detection(len(CLASSES))
    plain, enlarged = task.meter(), task.meter()
    large: dict[int, Any] = {
        key: {**found, "boxes": found["boxes"] * 2.5} for key, found in answers.items()
    }
    for factor, meter, told in ((1.0, plain, answers), (2.5, enlarged, large)):
        for batch in batches_of(content, enlarged=factor, masks=False):
            meter.update(task.predict(ToldDetector(told), batch))
    assert enlarged.scores() == pytest.approx(plain.scores(), abs=1e-6)
    assert "map_small" in plain.scores() and "mask_map" not in plain.scores()
    for one, other in zip(plain.records(), enlarged.records(), strict=True):
        np.testing.assert_array_equal(one.true.xywh, other.true.xywh)
        np.testing.assert_allclose(one.found.xywh, other.found.xywh, atol=1e-4)


def test_width_and_height_are_scaled_each_by_its_own() -> None:
    """A picture of 40 × 90 pixels, seen at 20 × 30."""
    seen: Any = {
        "boxes": torch.tensor([[3.0, 2, 30, 20]]),
        "labels": torch.zeros(1).long(),
        "scores": torch.ones(1),
    }
    meter = DetectionMeter(1)
    meter.update(([seen], [seen], [(20, 30)], [(40, 90)], [1], ["a"]))
    (one,) = meter.records()
    assert one.true.xywh.tolist() == one.found.xywh.tolist() == [[9, 4, 81, 36]]
    assert one.found.boxes.tolist() == [[9, 4, 90, 40]]
    assert one.true.areas.tolist() == [81 * 36]


def test_masks_are_brought_to_the_original_picture() -> None:
    """A mask drawn on a coarser grid covers the same part of the picture."""
    meter = DetectionMeter(1)
    coarse = torch.zeros(1, 20, 30, dtype=torch.bool)
    coarse[0, 5:10, 6:24] = True
    found: Any = {
        "boxes": torch.tensor([[6.0, 5, 24, 10]]),
        "labels": torch.zeros(1).long(),
        "scores": torch.ones(1),
        "masks": coarse,
    }
    target: Any = {key: found[key] for key in ("boxes", "labels", "masks")}
    meter.update(([found], [target], [(20, 30)], [(40, 60)], [1], ["a"]))
    (record,) = meter.records()
    assert record.found.masks is not None
    (drawn,) = decode_masks(record.found.masks, (40, 60))
    expected = np.zeros((40, 60), bool)
    expected[10:20, 12:48] = True
    # Bilinear edges round the corners off.
    assert (drawn != expected).sum() <= 4
    assert meter.scores()["mask_map"] == 1


def test_processes_together_come_to_what_one_alone_does() -> None:
    """Shares that interleave, one of them empty, one image twice."""
    content = scene(1)
    answers = answers_to(content, 1)
    whole = judged(content, answers)
    task = Detection(len(CLASSES), truths=truths_of(content))
    meters = [task.meter() for _ in range(3)]
    for index, batch in enumerate(batches_of(content, size=1)):
        meters[index % 2].update(task.predict(ToldDetector(answers), batch))
    meters[1].update(task.predict(ToldDetector(answers), batches_of(content, size=1)[0]))
    states = [meter.state() for meter in meters]
    for meter in meters:
        meter.merge(states)
        assert meter.scores() == whole.scores()
        assert [one.image_id for one in meter.records()] == list(range(1, 13))
    one, other = (meter.result(CLASSES).to_dict() for meter in (meters[2], whole))
    assert one == other


def test_nothing_to_find_and_nothing_found() -> None:
    """Figures are there for the loop, and none of them is −1."""
    empty: Any = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0).long(),
        "scores": torch.zeros(0),
    }
    meter = DetectionMeter(2)
    assert meter.scores() == {"map": 0.0}
    meter.update(([empty], [empty], [(8, 8)], [(8, 8)], [5], ["a"]))
    assert meter.scores() == {"map": 0.0}
    result = meter.result(["a", "b"])
    assert result.boxes.map is None and result.confusion.sum() == 0 and result.curves == ()


def test_the_result_is_plain_json() -> None:
    content = scene(3)
    result = judged(content, answers_to(content, 3)).result(CLASSES)
    plain = json.loads(json.dumps(result.to_dict()))
    assert plain["boxes"]["map"] == result.boxes.map
    assert plain["confusion"] == result.confusion.tolist()
    assert len(plain["curves"][0]["precision"]) == 101


def record(
    true: list[tuple[list[float], int]],
    found: list[tuple[list[float], int, float]],
    crowd: list[bool] | None = None,
) -> ImageRecord:
    """One picture's objects, boxes as x, y, w, h."""
    boxes = np.array([box for box, _ in true], float).reshape(-1, 4)
    return ImageRecord(
        1,
        "a",
        (100, 100),
        TrueObjects(
            boxes,
            np.array([label for _, label in true], int),
            None,
            np.array(crowd or [False] * len(true), bool),
            boxes[:, 2] * boxes[:, 3],
        ),
        FoundObjects(
            np.array([box for box, _, _ in found], float).reshape(-1, 4),
            np.array([label for _, label, _ in found], int),
            None,
            np.array([score for _, _, score in found], float),
        ),
    )


A, B, C = [0.0, 0, 20, 20], [40.0, 40, 20, 20], [70.0, 0, 30, 30]


def confusion_of(one: ImageRecord, threshold: float) -> list[list[int]]:
    meter = DetectionMeter(2)
    meter.merge([(one,)])
    return meter.result(["a", "b"], threshold).confusion.tolist()


def test_confusions_are_counted_by_hand() -> None:
    """Rows: a, b, nothing; columns likewise. One right, one taken for b, one missed, one twice,
    one of nothing, one not sure enough."""
    one = record(
        [(A, 0), (B, 0), (C, 1)],
        [(A, 0, 0.9), (A, 0, 0.8), (B, 1, 0.7), ([20.0, 70, 9, 9], 1, 0.6), (C, 1, 0.3)],
    )
    assert confusion_of(one, 0.5) == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    assert confusion_of(one, 0.2) == [[1, 1, 0], [0, 1, 0], [1, 1, 0]]
    matches = match(one, 0.5)
    assert (matches.num_right, matches.num_false, matches.num_missed) == (1, 3, 2)
    assert matches.f1 == pytest.approx(2 / 7)


def test_the_own_class_goes_before_a_larger_overlap() -> None:
    """Two objects in one place: each is found as what it is, though the other's box fits better."""
    near = [0.0, 0, 20, 22]
    one = record([(A, 0), (near, 1)], [(near, 0, 0.9), (A, 1, 0.8)])
    assert confusion_of(one, 0.5) == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_crowds_are_neither_missed_nor_mistaken() -> None:
    """A box in a crowd of its class does not count; one of another class is false."""
    crowd = [0.0, 0, 60, 60]
    inside = [(A, 0, 0.9), (B, 0, 0.8), (A, 1, 0.7)]
    one = record([(crowd, 0)], inside, crowd=[True])
    assert confusion_of(one, 0.5) == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_the_best_threshold_is_that_of_all_thresholds_tried() -> None:
    """Against every score that occurs, F1 counted anew each time."""
    content = scene(0)
    records = judged(content, answers_to(content, 0)).records()

    def f1(threshold: float) -> float:
        every = [match(one, threshold) for one in records]
        right, false, missed = (
            sum(getattr(m, f"num_{what}") for m in every) for what in ("right", "false", "missed")
        )
        return 2 * right / (2 * right + false + missed)

    tried = {float(score) for one in records for score in one.found.scores}
    best = best_threshold(records)
    assert best in tried
    assert f1(best) == pytest.approx(max(map(f1, tried)))
    assert f1(best) > f1(min(tried)) + 0.01


def test_annotations_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(FovealError, match="no COCO annotations"):
        read_truths(tmp_path / "list.json")
    with pytest.raises(FovealError, match="Cannot read"):
        read_truths(tmp_path / "none.json")
    content = scene(0)
    meter = DetectionMeter(3, truths={})
    batch = batches_of(content)[0]
    task = Detection(3)
    with pytest.raises(FovealError, match=r"1\.png is image 1"):
        meter.update(task.predict(ToldDetector(answers_to(content, 0)), batch))
    records = judged(content, answers_to(content, 0)).records()
    with pytest.raises(FovealError, match="one for each"):
        write_detections(records, [1, 2], tmp_path)
    with pytest.raises(FovealError, match="Cannot write"):
        write_detections(records, CATEGORY_IDS, tmp_path / "list.json")


def test_polygons_and_unpacked_run_lengths_are_read(tmp_path: Path) -> None:
    """A square as a polygon and as counts of columns; a crowd; a box of no known class."""
    square = {"size": [10, 10], "counts": [22, 4, 6, 4, 6, 4, 6, 4, 44]}
    head = {"image_id": 1, "bbox": [2, 2, 4, 4], "category_id": 9}
    content = {
        "images": [{"id": 1, "height": 10, "width": 10}, {"id": 2, "height": 5, "width": 5}],
        "categories": [{"id": 9}, {"id": 4}],
        "annotations": [
            {**head, "segmentation": [[2, 2, 6, 2, 6, 6, 2, 6]], "area": 15.5},
            {**head, "segmentation": square, "iscrowd": 1},
            {**head, "category_id": 5, "segmentation": square},
        ],
    }
    file = tmp_path / "annotations.json"
    file.write_text(json.dumps(content))
    truths = read_truths(file)
    one = truths[1]
    assert one.masks is not None and len(truths[2]) == 0
    drawn = decode_masks(one.masks, (10, 10))
    expected = np.zeros((10, 10), bool)
    expected[2:6, 2:6] = True
    assert (drawn == expected).all() and drawn.shape == (2, 10, 10)
    assert one.labels.tolist() == [1, 1] and one.crowd.tolist() == [False, True]
    assert one.areas.tolist() == [15.5, 16.0]
    assert one.boxes.tolist() == [[2, 2, 6, 6]] * 2
