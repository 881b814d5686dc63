"""The report of a detector: figures, curves, confusions, its worst and its best images."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.files import write_text
from foveal.tasks.detection.average_precision import AveragePrecision
from foveal.tasks.detection.matching import Matches
from foveal.tasks.detection.records import ImageRecord, Objects, decode_masks
from foveal.tasks.detection.result import (
    BACKGROUND,
    DetectionResult,
    PrecisionRecallCurve,
    matches_of,
)
from foveal.tools.report import page as html
from foveal.tools.report.charts import CHART_STYLE, Line, key, unit_chart
from foveal.tools.report.objects import Drawing, class_colour, drawn_objects

# Two stand side by side on a page.
_SIDE = 460

# Of a class each, beside that of all; more could not be told apart.
_MOST_CURVES = 6

# Wider tables of confusions cannot be taken in.
_MOST_CLASSES = 30

_STYLE = """
.pair { display: flex; flex-wrap: wrap; gap: .4rem; }
.pair img { image-rendering: auto; max-width: 100%; height: auto; }
.stack { display: grid; gap: .8rem; justify-content: start; }
"""


@dataclass(frozen=True, eq=False)
class DetectionReport:
    """What the report is about.

    Attributes:
        title: of the page.
        result: the figures.
        records: the images that they were taken over.
        picture_of: the original picture of a record.
        words: what was judged by what, below the title.
        shown: images among the worst, and as many among the best.
    """

    title: str
    result: DetectionResult
    records: Sequence[ImageRecord]
    picture_of: Callable[[ImageRecord], Image.Image]
    words: str = ""
    shown: int = 6


def write_detection_report(report: DetectionReport, path: Path) -> None:
    """Write the page, all in one file.

    Raises:
        FovealError: the page cannot be written, or a picture cannot be read.
    """
    matches = matches_of(report.result, report.records)
    worst, best = _extremes(matches, report.shown)
    content = (
        _summary(report),
        _classes(report.result),
        _curves(report.result),
        _confusion(report.result),
        _images(report, matches, "Worst images", worst),
        _images(report, matches, "Best images", best),
    )
    write_text(path, html.page(report.title, *content, style=CHART_STYLE + _STYLE))


def _summary(report: DetectionReport) -> str:
    result = report.result
    values = _figures(result.boxes, "mAP") | (
        {} if result.masks is None else _figures(result.masks, "mask mAP")
    )
    values |= {"images": f"{result.num_images:,}", "objects": f"{result.num_objects:,}"}
    text = (
        "mAP is COCO's mean average precision over overlaps (IoU) from 0.50 to 0.95, mAP 50 and "
        "mAP 75 at one overlap, in pixels of the original pictures. Confusions and pictures count "
        f"what was found with a score of at least {result.score_threshold:.2f}."
    )
    words = html.paragraph(report.words) if report.words else ""
    return (
        f"<header>\n<h1>{escape(report.title)}</h1>\n{words}\n{html.paragraph(text)}\n"
        f"{html.figures(values)}\n</header>"
    )


def _figures(figures: AveragePrecision, name: str) -> dict[str, str]:
    return {
        name: _number(figures.map),
        f"{name} 50": _number(figures.map_50),
        f"{name} 75": _number(figures.map_75),
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _classes(result: DetectionResult) -> str:
    columns = ["class", "objects", "AP", "AP 50", "recall"]
    columns += ["mask AP"] if result.masks is not None else []
    rows = []
    for row in result.per_class:
        cells = [row.name, f"{row.num_objects:,}"]
        cells += map(_number, (row.map, row.map_50, row.mar_100))
        cells += [_number(row.mask_map)] if result.masks is not None else []
        rows.append(cells)
    caption = (
        "AP: average precision, mean over overlaps from 0.50 to 0.95. Recall: mean over the same, "
        "of up to 100 boxes an image and class."
    )
    return html.section("Classes", html.table(caption, columns, rows))


def _curves(result: DetectionResult) -> str:
    """A chart an overlap; a curve for all classes together, and for the commonest."""
    if not result.curves:
        return html.section("Precision and recall", html.paragraph("There was nothing to find."))
    rows = sorted(result.per_class, key=lambda row: -row.num_objects)
    common = [row.name for row in rows if row.num_objects][:_MOST_CURVES]
    charts = []
    for iou in dict.fromkeys(curve.iou for curve in result.curves):
        curves = [curve for curve in result.curves if curve.iou == iou]
        charts.append(_chart(iou, curves, common, result.classes))
    known = len(result.curves) // len(charts)
    entries = [(name, class_colour(result.classes.index(name))) for name in common]
    legend = key([*entries, (f"mean of {known} classes", None)])
    text = (
        "The precision that is left at each recall, as the average precision takes its mean; "
        "0 where the recall is not reached."
    )
    drawing = f'<div class="charts">{"".join(charts)}</div>'
    return html.section("Precision and recall", html.paragraph(text), drawing, legend)


def _chart(
    iou: float,
    curves: Sequence[PrecisionRecallCurve],
    common: Sequence[str],
    classes: Sequence[str],
) -> str:
    areas = {curve.name: float(curve.precision.mean()) for curve in curves}
    lines = [
        Line(
            curve.recall,
            curve.precision,
            class_colour(classes.index(curve.name)),
            f"{curve.name}, average precision {areas[curve.name]:.3f}",
        )
        for curve in curves
        if curve.name in common
    ]
    mean = np.mean([curve.precision for curve in curves], axis=0)
    lines.append(Line(curves[0].recall, mean, None, f"mean, {mean.mean():.3f}"))
    title = f"overlap of {iou:g} and more"
    alt = f"Precision against recall at an {title}. Average precision: " + "; ".join(
        [*(f"{name} {areas[name]:.3f}" for name in common), f"mean of all {mean.mean():.3f}"]
    )
    return unit_chart(title, "recall", "precision", lines, alt)


def _confusion(result: DetectionResult) -> str:
    counts = result.confusion
    wrong = counts + counts.T
    np.fill_diagonal(wrong, 0)
    # The classes that are mistaken most, in their own order.
    order = np.argsort(-wrong[:-1].sum(1), kind="stable")[:_MOST_CLASSES]
    shown = [*sorted(order.tolist()), len(result.classes)]
    names = tuple([*result.classes, BACKGROUND][index] for index in shown)
    table = tuple(tuple(counts[i, j].item() for j in shown) for i in shown)
    left_out = len(result.classes) - len(order)
    text = (
        "Boxes that overlap by half. Column “background”: objects that were not found. Row "
        "“background”: found where nothing is, or found twice."
    )
    text += f" The {len(order)} classes with most mistakes; {left_out} are left out." * (
        left_out > 0
    )
    return html.section("Confusions", html.paragraph(text), html.confusion_table(names, table))


def _extremes(matches: Sequence[Matches], shown: int) -> tuple[list[int], list[int]]:
    """The images with the lowest and with the highest F1, those with more objects first."""
    places = range(len(matches))
    worst = sorted(
        (i for i in places if matches[i].f1 < 1),
        key=lambda i: (matches[i].f1, -matches[i].num_false - matches[i].num_missed),
    )[:shown]
    rest = (i for i in places if i not in worst)
    best = sorted(rest, key=lambda i: (-matches[i].f1, -matches[i].num_right))[:shown]
    return worst, best


def _images(
    report: DetectionReport, matches: Sequence[Matches], title: str, places: Sequence[int]
) -> str:
    if not places:
        return html.section(title, html.paragraph("None."))
    text = "Left what is there, right what was found, with its score."
    pairs = [_pair(report, report.records[i], matches[i]) for i in places]
    return html.section(title, html.paragraph(text), f'<div class="stack">{"".join(pairs)}</div>')


def _pair(report: DetectionReport, record: ImageRecord, matched: Matches) -> str:
    """An image twice, with what is there and with what was found."""
    classes, picture = report.result.classes, report.picture_of(record)
    true, found = record.true, record.found
    there = [
        classes[label] + (", crowd" if crowd else "") + (", missed" if missed else "")
        for label, crowd, missed in zip(true.labels, true.crowd, matched.missed, strict=True)
    ]
    sure = np.flatnonzero(found.scores >= report.result.score_threshold)
    # The surest are drawn last, on top.
    sure = sure[np.argsort(found.scores[sure], kind="stable")]
    said = [
        f"{classes[found.labels[i]]} {found.scores[i]:.2f}"
        + (", false" if matched.counted[i] and not matched.right[i] else "")
        for i in sure
    ]
    sides = (
        ("there", _drawing(record, true, np.arange(len(true)), there), true.labels),
        ("found", _drawing(record, found, sure, said), found.labels[sure]),
    )
    shown = []
    for word, drawing, labels in sides:
        alt = f"{record.name}, {word}: {_counted(labels.tolist(), classes)}"
        image = drawn_objects(picture, drawing, _SIDE)
        shown.append(html.picture(image, alt, image.width, image.height, photograph=True))
    caption = (
        f"{record.name}: {matched.num_right} found, {matched.num_missed} missed, "
        f"{matched.num_false} false (F1 {matched.f1:.2f})"
    )
    return html.card(f'<div class="pair">{"".join(shown)}</div>', caption)


def _drawing(
    record: ImageRecord, objects: Objects, chosen: np.ndarray, texts: Sequence[str]
) -> Drawing:
    masks = None
    if objects.masks is not None:
        masks = decode_masks(tuple(objects.masks[i] for i in chosen), record.size)
    return Drawing(objects.boxes[chosen], objects.labels[chosen].tolist(), texts, masks)


def _counted(labels: Sequence[int], classes: Sequence[str]) -> str:
    """ "3 cells, 1 plate" or "nothing"."""
    counts = Counter(classes[label] for label in labels)
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "nothing"
