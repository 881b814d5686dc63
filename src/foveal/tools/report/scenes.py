"""The page of a segmenter: figures, classes, best and worst images, confusions."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from PIL import Image

from foveal.files import write_text
from foveal.tasks.segmentation.meter import confusion_of
from foveal.tasks.segmentation.result import SegmentationResult, class_ious
from foveal.tools.report import page as html
from foveal.tools.report.class_colours import class_colours
from foveal.tools.scenes import JudgedScene, SceneEvaluation
from foveal.tools.segment import SegmentInference

# Pixels across of a picture on the page, and in the file, where screens are finer.
_SHOWN, _KEPT = 216, 432

# Of the table of confusions; more do not fit a screen.
_MOST_CLASSES = 30

# Vermilion over grey and black: light enough, and of a hue that no common colour blindness loses.
_WRONG = (213, 94, 0)

_STYLE = """
.swatch { display: inline-block; width: .9rem; height: .9rem; border-radius: .2rem;
  border: 1px solid var(--line); vertical-align: -.1rem; print-color-adjust: exact; }
.key { display: flex; flex-wrap: wrap; gap: .3rem 1rem; list-style: none; padding: 0;
  font-size: .9rem; }
.classes th[scope=row] { text-align: left; color: var(--text); font-weight: 400; }
.classes td, .classes th { white-space: nowrap; } .classes td { text-align: right; }
.classes td.bar { min-width: 8rem; width: 16rem; }
.bar div { height: .8rem; min-width: 1px; border-radius: .2rem; background: var(--accent);
  print-color-adjust: exact; }
.scenes { display: grid; gap: .8rem; }
.panels { display: flex; flex-wrap: wrap; gap: .5rem; }
.panels img { image-rendering: auto; } .panels span { font-size: .8rem; color: var(--soft); }
"""


def write_scene_report(
    evaluation: SceneEvaluation,
    path: Path,
    *,
    title: str = "Segmentation",
    subject: str = "The segmenter",
) -> None:
    """Write one self-contained page.

    Args:
        evaluation: of `judge_scenes`.
        path: of the page.
        title: of the page.
        subject: what was judged, as the beginning of a sentence.

    Raises:
        FovealError: the page cannot be written, or no pixel counted.
    """
    write_text(path, scene_report(evaluation, title=title, subject=subject))


def scene_report(evaluation: SceneEvaluation, *, title: str, subject: str) -> str:
    """The page; arguments and errors as of `write_scene_report`."""
    sections = [
        _summary(evaluation, title, subject),
        _classes(evaluation.result),
        _scenes(evaluation, "Worst images", evaluation.worst),
        _scenes(evaluation, "Best images", evaluation.best),
        _confusions(evaluation.result),
    ]
    return html.page(title, *filter(None, sections), style=_STYLE)


def inference_words(inference: SegmentInference) -> str:
    """How a segmenter looked at the images."""
    window = "the whole image at once"
    if inference.window is not None:
        window = (
            f"windows of {inference.window} pixels a side, {inference.step} pixels apart, averaged"
        )
    parts = [window]
    if inference.scales != (1.0,):
        parts.append("scales " + ", ".join(f"{scale:g}" for scale in inference.scales))
    if inference.flip:
        parts.append("averaged with the mirror image")
    return "; ".join(parts)


def _summary(evaluation: SceneEvaluation, title: str, subject: str) -> str:
    result = evaluation.result
    median = float(np.median([iou for _, iou in evaluation.ious]))
    values = {
        "mean IoU of the classes": f"{result.miou:.1f} %",
        "mean accuracy of the classes": f"{result.macc:.1f} %",
        "accuracy of the pixels": f"{result.aacc:.1f} %",
        "median IoU of the images": f"{median:.1f} %",
        "images": f"{result.num_images:,}",
    }
    text = (
        f"{subject}, judged on {result.num_images:,} images and "
        f"{int(result.confusion.sum()):,} pixels that have a label. "
        f"It looked at: {inference_words(evaluation.inference)}."
    )
    heading = f"<h1>{escape(title)}</h1>"
    return f"<header>\n{heading}\n{html.paragraph(text)}\n{html.figures(values)}\n</header>"


def _swatch(colour: Iterable[int]) -> str:
    return f'<span class="swatch" style="background: rgb({", ".join(map(str, colour))})"></span>'


def _classes(result: SegmentationResult) -> str:
    """A row for each class, with a bar as long as its IoU; the best first."""
    colours = class_colours(len(result.classes)).tolist()
    rows = [*zip(result.per_class(), colours, strict=True)]
    rows.sort(key=lambda row: -1.0 if row[0].iou is None else row[0].iou, reverse=True)
    total = result.confusion.sum()
    lines = []
    for row, colour in rows:
        # The number stands beside it: to a reader of the page's text the bar is nothing.
        bar = f'<div aria-hidden="true" style="width: {row.iou:.1f}%"></div>' if row.iou else ""
        lines.append(
            f'<tr><th scope="row">{_swatch(colour)} {escape(row.name)}</th>'
            f'<td>{_percent(row.iou)}</td><td class="bar">{bar}</td>'
            f"<td>{_percent(row.accuracy)}</td><td>{_percent(100 * row.num_pixels / total)}</td>"
            "</tr>"
        )
    head = "".join(
        f'<th scope="col"{span}>{name}</th>'
        for name, span in (
            ("class", ""),
            ("IoU", ' colspan="2"'),
            ("accuracy", ""),
            ("share of the pixels", ""),
        )
    )
    text = (
        "IoU: pixels that both the labels and the predictions give to a class, of those that "
        "either does. Accuracy: of the pixels of the class, those that were found. A class that "
        "neither has is left out of the means."
    )
    table = (
        f'<div class="scroll"><table class="classes"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
    return html.section("Classes", html.paragraph(text), table)


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} %"


def _scenes(evaluation: SceneEvaluation, title: str, scenes: tuple[JudgedScene, ...]) -> str:
    if not scenes:
        return ""
    classes = evaluation.result.classes
    shown = [_shown_classes(scene, len(classes)) for scene in scenes]
    text = (
        "By the mean IoU of the classes that the image or its prediction has. Of the labels, "
        "pixels that do not count are black. Mistakes are orange."
    )
    cards = "".join(_scene(scene, evaluation) for scene in scenes)
    return html.section(
        title,
        html.paragraph(text),
        _key(classes, sorted(set().union(*shown))),
        f'<div class="scenes">{cards}</div>',
    )


def _shown_classes(scene: JudgedScene, count: int) -> set[int]:
    found = np.union1d(scene.labels, scene.predicted)
    return set(found[(found >= 0) & (found < count)].tolist())


def _key(classes: tuple[str, ...], shown: Iterable[int]) -> str:
    """Names beside the colours of the classes that are there to be seen."""
    colours = class_colours(len(classes)).tolist()
    items = (f"<li>{_swatch(colours[i])} {escape(classes[i])}</li>" for i in shown)
    return f'<ul class="key" aria-label="Colours of the classes">{"".join(items)}</ul>'


def _scene(scene: JudgedScene, evaluation: SceneEvaluation) -> str:
    """The photograph, its labels, the prediction and the mistakes."""
    # The page may go to others: files by their names alone.
    name = Path(scene.name).name
    classes, ignored = evaluation.result.classes, evaluation.ignore_index
    counts = scene.labels != ignored
    wrong = counts & (scene.labels != scene.predicted)
    share = 100 * wrong.sum() / max(1, counts.sum())
    panels = {
        "photograph": (
            _fitted(Image.fromarray(scene.image), Image.Resampling.LANCZOS),
            f"photograph {name}",
        ),
        "labels": (
            _map(scene.labels, counts, len(classes)),
            f"labels of {name}: {_contents(scene.labels[counts], classes)}",
        ),
        "prediction": (
            _map(scene.predicted, np.ones_like(counts), len(classes)),
            f"prediction for {name}: {_contents(scene.predicted.ravel(), classes)}",
        ),
        "mistakes": (
            _mistakes(scene.image, wrong),
            f"mistakes in {name}: {share:.1f} % of the pixels",
        ),
    }
    pictures = "".join(
        f"<div>{html.picture(image, alt, _SHOWN)}<span>{panel}</span></div>"
        for panel, (image, alt) in panels.items()
    )
    caption = (
        f"{name}: IoU {scene.iou:.1f} %, {share:.1f} % of the pixels mistaken; "
        f"{_by_class(scene, classes, ignored)}"
    )
    return (
        f'<figure><div class="panels">{pictures}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _by_class(scene: JudgedScene, classes: tuple[str, ...], ignore_index: int) -> str:
    """The three least IoUs of the image."""
    matrix = confusion_of(
        torch.from_numpy(scene.predicted),
        torch.from_numpy(scene.labels),
        len(classes),
        ignore_index,
    ).numpy()
    ious = class_ious(matrix)
    order = [int(i) for i in np.argsort(ious) if not np.isnan(ious[i])][:3]
    return "least " + ", ".join(f"{classes[i]} {ious[i]:.0f} %" for i in order)


def _contents(values: Int64[np.ndarray, " n"], classes: tuple[str, ...]) -> str:
    """The four commonest classes, for who cannot see the picture."""
    counts = np.bincount(values, minlength=len(classes))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]][:4]
    shares = (f"{100 * counts[i] / counts.sum():.0f} % {classes[i]}" for i in order)
    return ", ".join(shares) or "nothing"


def _map(
    values: Int64[np.ndarray, "h w"], counts: Bool[np.ndarray, "h w"], num_classes: int
) -> Image.Image:
    """Classes in their colours, black where they do not count."""
    colours = np.concatenate([np.zeros((1, 3), np.uint8), class_colours(num_classes)])
    entries = np.where(counts, values + 1, 0)
    if len(colours) > 256:
        return _fitted(Image.fromarray(colours[entries]), Image.Resampling.NEAREST)
    # A palette makes the file several times smaller.
    image = _fitted(Image.fromarray(entries.astype(np.uint8)), Image.Resampling.NEAREST)
    image.putpalette(colours.tobytes())
    return image


def _mistakes(image: UInt8[np.ndarray, "h w 3"], wrong: Bool[np.ndarray, "h w"]) -> Image.Image:
    """Mistakes over the pale photograph."""
    grey = np.asarray(Image.fromarray(image).convert("L"))[..., None]
    painted = np.repeat((160 + grey.astype(float) * 95 / 255).astype(np.uint8), 3, axis=2)
    painted[wrong] = _WRONG
    return _fitted(Image.fromarray(painted), Image.Resampling.NEAREST)


def _fitted(image: Image.Image, how: Image.Resampling) -> Image.Image:
    """No wider than what the page keeps."""
    width = min(_KEPT, image.width)
    return image.resize((width, max(1, round(image.height * width / image.width))), how)


def _confusions(result: SegmentationResult, limit: int = 10) -> str:
    pairs = result.confusions(limit)
    if not pairs:
        return html.section("Confusions", html.paragraph("None: every pixel was right."))
    rows = "".join(
        f'<tr><th scope="row">{escape(pair.true)}</th><td>{escape(pair.predicted)}</td>'
        f"<td>{pair.num_pixels:,}</td><td>{pair.share:.1f} %</td></tr>"
        for pair in pairs
    )
    commonest = (
        '<div class="scroll"><table><caption>The commonest</caption><thead><tr>'
        '<th scope="col">true class</th><th scope="col">taken for</th><th scope="col">pixels</th>'
        f'<th scope="col">of the true class</th></tr></thead><tbody>{rows}</tbody></table></div>'
    )
    chosen = _most_mistaken(result)
    shares = 100 * result.confusion / np.maximum(1, result.confusion.sum(1, keepdims=True))
    table = html.confusion_table(
        tuple(result.classes[i] for i in chosen),
        tuple(tuple(row) for row in shares[np.ix_(chosen, chosen)].round().astype(int).tolist()),
    )
    left_out = len(result.classes) - len(chosen)
    text = "In the matrix, per cent of the pixels of the true class; a dot is less than a half."
    if left_out:
        text += f" It has the {len(chosen)} classes of the most mistakes; {left_out} are left out."
    return html.section("Confusions", html.paragraph(text), commonest, table)


def _most_mistaken(result: SegmentationResult) -> list[int]:
    """The classes that most mistakes are about, in their own order."""
    matrix = result.confusion
    mistakes = matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal()
    return sorted(np.argsort(-mistakes, kind="stable")[:_MOST_CLASSES].tolist())
