"""Running several models over several images and collecting what they compute on the way."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.data.images import mode_of, to_mode
from foveal.data.transforms import Preprocessing, eval_transform
from foveal.errors import FovealError, OptionError
from foveal.tasks.classification import ClassScore, top_classes
from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.class_activation import METHODS
from foveal.tools.explain.evidence import (
    activation_view,
    faithfulness_view,
    receptive_field_view,
    try_activation,
)
from foveal.tools.explain.explanation import (
    BlockExplanation,
    Explanation,
    ImageExplanation,
    ModelExplanation,
)
from foveal.tools.explain.picture import Picture, seen_part
from foveal.tools.explain.reading import AttentionReading
from foveal.tools.explain.reading_views import views_of
from foveal.tools.explain.record import OTHER_TOOLS, Recording, record
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
    """

    top: int = 5
    queries: int = 7
    method: str | None = "gradcam"
    faithfulness: bool = False
    receptive_field: bool = False

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
        recordings: by image and model; empty ones for models without readings.
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
            title: of the view; a mixer has one attention alone.
            y, x: of the query, as fractions of the picture in [0, 1).

        Raises:
            FovealError: there is no such image, model or attention.
        """
        if not (0 <= image < len(self.recordings) and 0 <= model < len(self.recordings[0])):
            raise FovealError(f"There is no model {model} of image {image} here.")
        reading = self.recordings[image][model].get(path)
        if not isinstance(reading, AttentionReading):
            raise FovealError(f"There is no attention at {path!r}.")
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
        on_done: told how many of how many pairs of image and model are done.

    Raises:
        FovealError: there is no model or no image, or a network does not take the image.
    """
    if not models or not pictures:
        raise FovealError("There is nothing to explain: give at least one model and one image.")
    subjects = [_Subject.of(trained, pictures) for trained in models]
    fields = [_field(subject, settings) for subject in subjects]
    images, recordings = [], []
    for index, picture in enumerate(pictures):
        rows = []
        for number, (subject, views) in enumerate(zip(subjects, fields, strict=True), start=1):
            rows.append(_explain_one(subject, picture, index, settings, views))
            if on_done is not None:
                on_done(index * len(models) + number, len(pictures) * len(models))
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


def _field(subject: _Subject, settings: ExplainSettings) -> tuple[View, ...]:
    if not settings.receptive_field:
        return ()
    return (receptive_field_view(subject.trained.model, subject.inputs),)


def _explain_one(
    subject: _Subject,
    picture: Picture,
    index: int,
    settings: ExplainSettings,
    views: tuple[View, ...],
) -> tuple[ModelExplanation, Recording]:
    trained, notes = subject.trained, [*subject.notes]
    x = subject.inputs[index : index + 1]
    output, recording = _run(trained, x)
    blocks = _blocks(recording, settings.queries)
    if not blocks:
        notes.append(f"No mixer with readings; {OTHER_TOOLS} work with any model.")
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
    return explanation, recording


def _run(trained: TrainedModel, x: Float[Tensor, "1 c h w"]) -> tuple[Tensor, Recording]:
    model = trained.model
    try:
        with torch.inference_mode():
            if not _has_readings(model):
                return model(x), Recording(())
            with record(model) as recording:
                return model(x), recording
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FovealError(
            f"{trained.card.model} does not take an image of {x.shape[3]} × {x.shape[2]} pixels: "
            f"{reason}; choose another --image-size."
        ) from error


def _has_readings(model: nn.Module) -> bool:
    return any(hasattr(module, "readings") for module in model.modules())


def _scores(trained: TrainedModel, output: Tensor, name: str, top: int) -> tuple[ClassScore, ...]:
    classes = trained.card.classes
    if not classes:
        return ()
    return tuple(top_classes(output.float().cpu(), classes, [name], top)[0].scores)


def _blocks(recording: Recording, queries: int) -> tuple[BlockExplanation, ...]:
    """One entry a block; its token mixer's views come before its channel mixer's."""
    blocks: dict[tuple[int, int], BlockExplanation] = {}
    for index, (path, reading) in enumerate(recording.items()):
        views = views_of(reading, 0, queries)
        place = place_of(path) or (0, index)
        if place in blocks:
            before = blocks[place]
            blocks[place] = replace(before, views=(*before.views, *views))
        elif views:
            blocks[place] = BlockExplanation(path, *place, reading.kind, views)
    return tuple(blocks.values())


def place_of(path: str) -> tuple[int, int] | None:
    """Stage and block of a module path, from 0; a stage's downsampling is block −1."""
    found = re.match(r"(?:.*\.)?stages\.(\d+)\.(?:blocks\.(\d+)|(downsample))\b", path)
    if found is None:
        return None
    return int(found[1]), -1 if found[3] else int(found[2])
