"""Running several models over several images and collecting what they compute on the way."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.data.images import mode_of, to_mode
from foveal.data.transforms import Preprocessing, eval_transform
from foveal.errors import FovealError, OptionError, first_line
from foveal.tasks.classification import ClassScore, top_classes
from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.class_activation import METHODS
from foveal.tools.explain.evidence import (
    activation_view,
    faithfulness_view,
    try_activation,
    try_receptive_field,
)
from foveal.tools.explain.explanation import (
    ELSEWHERE,
    BlockExplanation,
    Explanation,
    ImageExplanation,
    ModelExplanation,
)
from foveal.tools.explain.picture import Picture, seen_part
from foveal.tools.explain.reading import AttentionReading
from foveal.tools.explain.reading_views import QUERIES, views_of
from foveal.tools.explain.record import Recording, readable_mixers, record
from foveal.tools.explain.views import View
from foveal.tools.trained import TrainedModel

# Readings of attention grow with the fourth power of the side.
LARGEST_INPUT = 512

OnDone = Callable[[int, int], None]


@dataclass(frozen=True)
class ExplainSettings:
    """What to compute.

    Attributes:
        top: classes an image.
        queries: along each side of the grid of queries, from 1 up.
        method: of the class activation map, or None for no map.
        faithfulness: insertion and deletion curves of that map.
        receptive_field: the effective receptive field over all images.
        keep_readings: in the result, for queries and arrays; up to 70 MB an image and model at 224
            pixels, and ten times that at 512.
    """

    top: int = 5
    queries: int = 7
    method: str | None = "gradcam"
    faithfulness: bool = False
    receptive_field: bool = False
    keep_readings: bool = False

    def __post_init__(self) -> None:
        if self.method is not None and self.method not in METHODS:
            raise OptionError(f"method is one of {', '.join(METHODS)}, got {self.method!r}.")
        if self.faithfulness and self.method is None:
            raise OptionError("There is no map whose faithfulness could be told: give a method.")
        for name in ("top", "queries"):
            if getattr(self, name) < 1:
                raise FovealError(f"{name} is 1 or more, got {getattr(self, name)}.")


@dataclass(frozen=True, eq=False)
class Explained:
    """The explanation, and all that it was made of.

    Attributes:
        explanation: for page and figures.
        recordings: by image and model, where they are kept; empty ones for models without
            readings.
    """

    explanation: Explanation
    recordings: tuple[tuple[Recording, ...], ...] = field(repr=False)

    def query(
        self, image: int, model: int, path: str, title: str, y: float, x: float
    ) -> QueryAttention:
        """Where any query looks, in the heads of the page.

        Args:
            image, model: which, from 0.
            path: of the mixer.
            title: of the view, `QUERIES`.
            y, x: of the query, as fractions of the picture in [0, 1).

        Raises:
            FovealError: there is no such image, model or attention, or readings are not kept.
        """
        if not (0 <= image < len(self.recordings) and 0 <= model < len(self.recordings[0])):
            raise FovealError(f"There is no model {model} of image {image} here.")
        reading = self.recordings[image][model].get(path)
        if title != QUERIES or not isinstance(reading, AttentionReading):
            raise FovealError(f"There is no {title!r} at {path!r}.")
        height, width = reading.size
        row, column = (
            min(max(int(at * side), 0), side - 1) for at, side in ((y, height), (x, width))
        )
        return reading.attention_of(row, column).with_mean()


def explain_images(
    models: Sequence[TrainedModel],
    pictures: Sequence[Picture],
    settings: ExplainSettings = ExplainSettings(),
    on_done: OnDone | None = None,
) -> Explained:
    """What each model sees in each image.

    Args:
        models: any networks; those without readings are still shown with their classes.
        pictures: the images.
        settings: what to compute.
        on_done: told how many of how many pairs of image and model are done, twice as many with
            receptive fields.

    Raises:
        FovealError: there is no model or no image, or a network does not take the image.
    """
    if not models or not pictures:
        raise FovealError("There is nothing to explain: give at least one model and one image.")
    subjects = [_Subject.of(trained, pictures) for trained in models]
    steps = len(models) * len(pictures) * (2 if settings.receptive_field else 1)
    numbers = iter(range(1, steps + 1))

    def step(*_: object) -> None:
        if on_done is not None:
            on_done(next(numbers), steps)

    if settings.receptive_field:
        subjects = [subject.with_field(step) for subject in subjects]
    images, recordings = [], []
    for index, picture in enumerate(pictures):
        rows = []
        for subject in subjects:
            rows.append(_explain_one(subject, picture, index, settings))
            step()
        explained = tuple(row[0] for row in rows)
        images.append(ImageExplanation(picture.name, explained, picture.notices))
        recordings.append(tuple(row[1] for row in rows))
    return Explained(Explanation(tuple(images)), tuple(recordings))


class _Subject(NamedTuple):
    """A model, its preprocessing here, the images as its input, and what is to be said of that."""

    trained: TrainedModel
    preprocessing: Preprocessing
    inputs: Float[Tensor, "n c h w"]
    notes: tuple[str, ...]
    views: tuple[View, ...] = ()

    @classmethod
    def of(cls, trained: TrainedModel, pictures: Sequence[Picture]) -> "_Subject":
        preprocessing, notes = trained.card.preprocessing, ()
        if preprocessing.image_size > LARGEST_INPUT:
            notes = (
                f"Shown at {LARGEST_INPUT} pixels a side instead of {preprocessing.image_size}, "
                "as readings of attention grow with the fourth power of the side.",
            )
            preprocessing = replace(preprocessing, image_size=LARGEST_INPUT)
        transform, mode = eval_transform(preprocessing), mode_of(preprocessing.in_chans)
        inputs = torch.stack([transform(to_mode(p.image, mode)) for p in pictures])
        device = next(trained.model.parameters()).device
        return cls(trained, preprocessing, inputs.to(device), notes)

    def with_field(self, on_image: OnDone) -> "_Subject":
        """The same with its receptive field, or a note on why there is none."""
        found = try_receptive_field(self.trained.model, self.inputs, on_image)
        if isinstance(found, str):
            return self._replace(notes=(*self.notes, found))
        return self._replace(views=(found,))


def _explain_one(
    subject: _Subject,
    picture: Picture,
    index: int,
    settings: ExplainSettings,
) -> tuple[ModelExplanation, Recording]:
    trained, notes, views = subject.trained, [*subject.notes], subject.views
    x = subject.inputs[index : index + 1]
    output, recording = _run(trained, x)
    blocks = _blocks(recording, settings.queries)
    if not blocks:
        notes.append("No mixer with readings; --method, --faithful and --erf are for any model.")
    scores = _scores(trained, output, picture.name, settings.top)
    activation = None
    if scores and settings.method is not None:
        found = try_activation(trained.model, x, settings.method)
        if isinstance(found, str):
            notes.append(found)
        else:
            activation = activation_view(found, scores[0].name)
            if settings.faithfulness:
                views = (faithfulness_view(trained.model, x, found), *views)
    explanation = ModelExplanation(
        model=trained.card.model,
        source=trained.source,
        is_trained=trained.is_trained,
        picture=seen_part(picture.image, subject.preprocessing),
        input_size=(x.shape[2], x.shape[3]),
        scores=scores,
        blocks=blocks,
        activation=activation,
        views=views,
        note=" ".join(notes) or None,
    )
    return explanation, recording if settings.keep_readings else Recording(())


def _run(trained: TrainedModel, x: Float[Tensor, "1 c h w"]) -> tuple[Tensor, Recording]:
    model = trained.model
    try:
        with torch.inference_mode():
            if not readable_mixers(model):
                return model(x), Recording(())
            with record(model) as recording:
                return model(x), recording
    except (RuntimeError, AssertionError) as error:
        raise FovealError(
            f"{trained.card.model} does not take an image of {x.shape[3]} × {x.shape[2]} pixels: "
            f"{first_line(error)}; choose another --image-size."
        ) from error


def _scores(trained: TrainedModel, output: Tensor, name: str, top: int) -> tuple[ClassScore, ...]:
    classes = trained.card.classes
    if not classes:
        return ()
    return tuple(top_classes(output.float().cpu(), classes, [name], top)[0].scores)


def _blocks(recording: Recording, queries: int) -> tuple[BlockExplanation, ...]:
    """One entry a block; its token mixer's views come before its channel mixer's."""
    blocks: dict[tuple[int, int], BlockExplanation] = {}
    elsewhere = 0
    for path, reading in recording.items():
        views, place = views_of(reading, 0, queries), place_of(path)
        if place is None:
            place, elsewhere = (ELSEWHERE, elsewhere), elsewhere + 1
        before = blocks.get(place)
        if before is None:
            blocks[place] = BlockExplanation(path, *place, reading.kind, views)
        elif isinstance(reading, AttentionReading):
            # Its queries are asked for by the block's path.
            blocks[place] = BlockExplanation(path, *place, reading.kind, (*before.views, *views))
        else:
            blocks[place] = replace(before, views=(*before.views, *views))
    return tuple(block for block in blocks.values() if block.views)


def place_of(path: str) -> tuple[int, int] | None:
    """Stage and block of a module path, from 0; a stage's downsampling is block −1."""
    found = re.match(r"(?:.*\.)?stages\.(\d+)\.(?:blocks\.(\d+)|(downsample))\b", path)
    if found is None:
        return None
    return int(found[1]), -1 if found[3] else int(found[2])
