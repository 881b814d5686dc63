"""Photographs side by side, each with the classes that a model finds likeliest: one picture."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from foveal.data.photographs import Photograph
from foveal.tasks.classification import ClassScore, Prediction
from foveal.tools.trained import TrainedModel

# The square in the middle is what a classifier sees of a picture.
_SIDE, _GAP, _LINE = 280, 20, 26
_TEXT, _SOFT, _PAGE, _BAR = "#1b1f24", "#57606a", "#ffffff", "#c9ddf2"


def words_of(trained: TrainedModel, photographs: Sequence[Photograph]) -> str:
    """What the model is, and which of the photographs it has no class for."""
    card = trained.card
    top1, source = card.metrics.get("top1"), trained.source
    score = "" if top1 is None else f" and is right about {top1:.1f} % of such photographs"
    unknown = [p.shows for p in photographs if not p.classes & set(card.classes)]
    missing = f" It has no class for {_listed(unknown)}, so it takes them for something else."
    return (
        f"{source[:1].upper()}{source[1:]}, {card.model}, was trained on {len(card.classes)} "
        f"classes of photographs of {card.preprocessing.image_size} pixels a side{score}: it is "
        f"there to be tried, not to be relied upon.{missing if unknown else ''}"
    )


def photograph_grid(
    photographs: Sequence[Photograph], predictions: Sequence[Prediction], words: str
) -> Image.Image:
    """The photographs in a row, below each its classes with bars of their probabilities.

    Args:
        photographs: to show.
        predictions: of each, as many classes each.
        words: below all of it.
    """
    count = len(predictions[0].scores)
    width = _GAP + len(photographs) * (_SIDE + _GAP)
    small, large = ImageFont.load_default(16), ImageFont.load_default(18)
    lines = textwrap.wrap(words, width // 8)
    below = 2 * _GAP + _SIDE + (count + 1) * _LINE
    grid = Image.new("RGB", (width, below + len(lines) * _LINE + _GAP), _PAGE)
    draw = ImageDraw.Draw(grid)
    for column, (photograph, prediction) in enumerate(zip(photographs, predictions, strict=True)):
        left = _GAP + column * (_SIDE + _GAP)
        grid.paste(ImageOps.fit(photograph.image, (_SIDE, _SIDE)), (left, _GAP))
        top = _GAP + _SIDE + 6
        draw.text((left, top), photograph.shows, _SOFT, large)
        for row, score in enumerate(prediction.scores, start=1):
            _score(draw, (left, top + row * _LINE), score, small)
    for row, line in enumerate(lines):
        draw.text((_GAP, below + row * _LINE), line, _SOFT, small)
    return grid


def _score(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    score: ClassScore,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    """A class over a bar as long as its probability."""
    left, top = place
    end = left + round(score.probability * _SIDE)
    draw.rectangle((left, top, end, top + _LINE - 5), _BAR)
    draw.text((left + 4, top + 1), score.name, _TEXT, font)
    draw.text((left + _SIDE, top + 1), percent(score), _TEXT, font, anchor="ra")


def percent(score: ClassScore) -> str:
    """A probability for people."""
    return f"{100 * score.probability:.1f} %"


def _listed(words: Sequence[str]) -> str:
    """ "a", "a or b", "a, b or c"."""
    return " or ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
