"""The page on which models are seen side by side: readings of every block over the picture."""

import base64
import io
import json
import os
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from typing import Any

from PIL import Image

from foveal.files import write_text
from foveal.tools.explain.explanation import Explanation, ModelExplanation
from foveal.tools.report import page as html
from foveal.tools.report.colours import diverging, second_sequential, sequential
from foveal.tools.report.encoding import STEPS, model_packet, text_of
from foveal.tools.report.titles import distinctions, image_titles, weights_of

_SCRIPTS = (
    "explanation_data.js",
    "explanation_drawing.js",
    "explanation_curves.js",
    "explanation_live.js",
    "explanation.js",
)

_GUIDE = (
    "Models stand side by side, stages below each other. A panel shows one block of its stage: "
    "its slider moves through the blocks; choose what is read from it, and of which head or level.",
    "Click on any picture to ask what that place attends to: the cross moves in all models. Arrow "
    "keys move it, too, once a picture has the focus.",
    "Every panel has its own scale, with numbers. The window around a query is outlined and has "
    "colours of its own; a circle's area is a share of the attention.",
)


def write_explanation_page(
    explanation: Explanation, path: str | os.PathLike[str], *, live: bool = False
) -> None:
    """Write the page, with all its data, into one file.

    Args:
        explanation: what it shows.
        path: of the file.
        live: whether the page asks the server that it comes from for every query.

    Raises:
        FovealError: the file cannot be written.
    """
    write_text(path, explanation_page(explanation, live=live))


def explanation_page(explanation: Explanation, *, live: bool = False) -> str:
    """The page as text; the same explanation is the same text."""
    title = _title(explanation)
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    return html.page(
        f"Foveal: {title}",
        _header(title),
        '<p id="message" role="alert" hidden></p>\n<div id="explanation" aria-busy="true"></div>',
        *_data(explanation, live),
        style=_asset("explanation.css"),
        script=script,
        connects=live,
    )


def _asset(name: str) -> str:
    return files("foveal.tools.report").joinpath(name).read_text(encoding="utf-8")


def _title(explanation: Explanation) -> str:
    images = explanation.images
    seen = images[0].name if len(images) == 1 else f"{len(images)} images"
    names = [model.model for model in images[0].models]
    models = names[0] if len(names) == 1 else f"{len(names)} models"
    return f"what {models} {'sees' if len(names) == 1 else 'see'} in {seen}"


def _header(title: str) -> str:
    guide = "".join(f"<li>{escape(sentence)}</li>" for sentence in _GUIDE)
    return (
        f"<header>\n<h1>{escape(title[:1].upper() + title[1:])}</h1>\n"
        f"<details open><summary>How to read this page</summary><ul>{guide}</ul></details>\n"
        "<noscript><p>This page draws its pictures with JavaScript, which is switched off.</p>"
        "</noscript>\n</header>"
    )


def _data(explanation: Explanation, live: bool) -> Iterator[str]:
    """The small things as one text; the readings of each model on each image apart, to be opened
    when they are looked at."""
    pictures: dict[str, int] = {}
    images: list[dict[str, Any]] = []
    names = image_titles(explanation)
    for i, (image, name) in enumerate(zip(explanation.images, names, strict=True)):
        models = []
        for j, (model, which) in enumerate(
            zip(image.models, distinctions(image.models), strict=True)
        ):
            identifier = f"readings-{i}-{j}"
            picture = pictures.setdefault(_picture(model.picture), len(pictures))
            models.append({**_model(model, which), "picture": picture, "readings": identifier})
            yield _script(identifier, text_of(model_packet(model)))
        images.append({"name": name, "notices": list(image.notices), "models": models})
    steps = STEPS[1]
    palettes = {
        "sequential": sequential(steps),
        "second": second_sequential(steps),
        "diverging": diverging(steps),
    }
    content = {
        "live": live,
        "palettes": {name: text_of(colours.tobytes()) for name, colours in palettes.items()},
        "pictures": list(pictures),
        "images": images,
    }
    # "</script>" in a name would end the element.
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    yield _script("content", text)


def _script(identifier: str, text: str) -> str:
    return f'<script type="application/json" id="{identifier}">{text}</script>'


def _model(model: ModelExplanation, which: str) -> dict[str, Any]:
    """What the page says of a model; `which` tells it from others of its name."""
    return {
        "model": model.model,
        "which": which,
        "weights": weights_of(model),
        "isTrained": model.is_trained,
        "inputSize": list(model.input_size),
        "scores": [[score.name, round(score.probability, 6)] for score in model.scores],
        "note": model.note,
    }


def _picture(image: Image.Image) -> str:
    """The picture in the address itself, in whichever format is smaller."""
    formats = {"png": {"optimize": True}, "jpeg": {"quality": 88, "subsampling": 0}}
    encoded = {}
    for kind, options in formats.items():
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, format=kind, **options)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda name: len(encoded[name]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode('ascii')}"
