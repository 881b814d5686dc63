"""The report of the quickstart: accuracy, confusions, mistakes, and where the network modulates."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from foveal.data.dataset import Samples
from foveal.data.images import mode_of, to_mode
from foveal.data.transforms import eval_transform
from foveal.files import write_text
from foveal.tasks.classification import ClassificationMeter, ClassificationResult, top_classes
from foveal.tools.report import page as html
from foveal.tools.report.colours import gradient
from foveal.tools.report.modulation import modulation_maps, overlay
from foveal.tools.trained import TrainedModel


@dataclass(frozen=True)
class Quickstart:
    """What the report is about.

    Attributes:
        trained: the model.
        held_out: images it was not trained on, in memory.
        num_trained: images it was trained on.
        seconds: the training took.
        title: of the page.
    """

    trained: TrainedModel
    held_out: Samples
    num_trained: int
    seconds: float
    title: str = "Foveal quickstart: handwritten digits"


def write_quickstart_report(quickstart: Quickstart, path: Path) -> ClassificationResult:
    """Judge the model, write the page, and return the figures.

    Raises:
        FovealError: the page cannot be written.
    """
    inputs = _inputs(quickstart)
    with torch.inference_mode():
        logits = torch.cat([quickstart.trained.model(part) for part in inputs.split(64)]).float()
    meter = ClassificationMeter(len(quickstart.trained.card.classes))
    meter.update((logits, torch.tensor(quickstart.held_out.labels)))
    result = meter.result(quickstart.trained.card.classes)
    sections = (
        _summary(quickstart, result),
        _confusion(result),
        _mistakes(quickstart, logits),
        _modulation(quickstart, inputs),
    )
    write_text(path, html.page(quickstart.title, *sections))
    return result


def _inputs(quickstart: Quickstart) -> Float[Tensor, "n c h w"]:
    preprocessing = quickstart.trained.card.preprocessing
    transform, mode = eval_transform(preprocessing), mode_of(preprocessing.in_chans)
    return torch.stack([transform(to_mode(i, mode)) for i in _images(quickstart.held_out)])


def _view(pixels: Float[Tensor, "c h w"], quickstart: Quickstart) -> Image.Image:
    """What the network sees, in grey: the part of the scan that the maps lie over."""
    preprocessing = quickstart.trained.card.preprocessing
    grey = (pixels * torch.tensor(preprocessing.std).view(-1, 1, 1)).mean(0)
    grey = 255 * (grey + sum(preprocessing.mean) / preprocessing.in_chans).clamp(0, 1)
    return Image.fromarray(grey.round().byte().numpy())


def _images(samples: Samples) -> list[Image.Image]:
    return [source for source in samples.sources if isinstance(source, Image.Image)]


def _summary(quickstart: Quickstart, result: ClassificationResult) -> str:
    model = quickstart.trained.model
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    side = quickstart.trained.card.preprocessing.image_size
    wrong = result.num_images - sum(row[i] for i, row in enumerate(result.confusion))
    values = {
        "held-out accuracy": f"{result.top1:.1f} %",
        "mistakes": f"{wrong} of {result.num_images}",
        "training time": f"{quickstart.seconds:.0f} s",
        "parameters": f"{parameters:.1f} M",
    }
    text = (
        f"{quickstart.trained.card.model}, from random weights, trained on "
        f"{quickstart.num_trained:,} scans and judged on {result.num_images:,} others. "
        f"Each scan has 8×8 cells, enlarged to {side}×{side} pixels. The figures are those of the "
        "epoch that did best on the judged scans."
    )
    heading = f"<h1>{quickstart.title}</h1>"
    return f"<header>\n{heading}\n{html.paragraph(text)}\n{html.figures(values)}\n</header>"


def _confusion(result: ClassificationResult) -> str:
    return html.section("Confusion matrix", html.confusion_table(result.classes, result.confusion))


def _mistakes(quickstart: Quickstart, logits: Float[Tensor, "n classes"], limit: int = 24) -> str:
    """The images taken for something else, the surest mistakes first."""
    samples, classes = quickstart.held_out, quickstart.trained.card.classes
    predictions = top_classes(logits, classes, samples.names, top=1)
    images = _images(samples)
    wrong = [i for i, p in enumerate(predictions) if p.top.index != samples.labels[i]]
    if not wrong:
        return html.section("Mistakes", html.paragraph("None: every held-out scan was recognised."))
    wrong.sort(key=lambda i: -predictions[i].top.probability)
    items = []
    for i in wrong[:limit]:
        true, top = classes[samples.labels[i]], predictions[i].top
        alt = f"{samples.names[i]}, a {true} taken for a {top.name}"
        caption = f"{true} taken for {top.name}, {100 * top.probability:.0f} % sure"
        items.append(html.card(html.picture(images[i], alt, 120), caption))
    shown = f" The {limit} surest are shown." if len(wrong) > limit else ""
    return html.section(
        "Mistakes", html.paragraph(f"{len(wrong)} scans, surest first.{shown}"), html.cards(items)
    )


def _modulation(quickstart: Quickstart, inputs: Float[Tensor, "n c h w"]) -> str:
    """For the first scan of some digits, the scan and the map of every stage."""
    samples, images = quickstart.held_out, _images(quickstart.held_out)
    chosen = [samples.labels.index(label) for label in sorted(set(samples.labels))[:6]]
    maps = modulation_maps(quickstart.trained.model, inputs[chosen])
    views = [_view(image, quickstart) for image in inputs[chosen]]
    # A map of one cell is the same everywhere and shows nothing.
    maps = {stage: values for stage, values in maps.items() if values.shape[-1] > 1}
    head = "".join(
        f'<th scope="col">{stage}, {values.shape[1]}×{values.shape[2]} cells</th>'
        for stage, values in maps.items()
    )
    rows = []
    for row, index in enumerate(chosen):
        name = quickstart.trained.card.classes[samples.labels[index]]
        cells = [html.picture(images[index], f"scan of a {name}", 96)]
        for stage, values in maps.items():
            alt = f"modulation of {stage} over a {name}"
            cells.append(html.picture(overlay(values[row], views[row]), alt, 96))
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    table = (
        f'<div class="scroll"><table><thead><tr><th scope="col">scan</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    explanation = (
        "EfficientMod multiplies the features of every position by a context gathered around it. "
        "The colour is the root mean square of the context over the channels, in the last "
        "modulation block of each stage, from the least to the greatest of that map."
    )
    legend = html.legend(gradient(), "weakest of the map", "strongest")
    return html.section("Modulation", html.paragraph(explanation), legend, table)
