"""One model at several image sizes; TransNeXt in each of its three ways of meeting them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from foveal.errors import FovealError
from foveal.models.transnext import TransNeXt, TransNeXtConfig
from foveal.tools.cost import Cost
from foveal.tools.evaluate import (
    DEFAULT_SETTINGS,
    EvaluationImages,
    EvaluationSettings,
    evaluate_images,
)
from foveal.tools.trained import TrainedModel

Mode = Literal["extrapolated", "interpolated", "linear"]


@dataclass(frozen=True)
class SweepRow:
    """The figures at one size.

    Attributes:
        image_size: side of the input in pixels.
        mode: how TransNeXt meets it; None for the other families, which have one way.
        top1, top5, ece: in per cent.
        loss: in nats.
        cost: speed and memory.
    """

    image_size: int
    mode: Mode | None
    top1: float
    top5: float
    ece: float | None
    loss: float
    cost: Cost


@dataclass(frozen=True)
class Sweep:
    """The figures at every size, sizes rising.

    Attributes:
        model: name of the network.
        trained_size: side of the images that it was trained on.
        num_images: how many were judged.
        images: which, in words.
        rows: one a size and mode.
    """

    model: str
    trained_size: int
    num_images: int
    images: str
    rows: tuple[SweepRow, ...]

    def modes(self) -> tuple[Mode | None, ...]:
        """The ways there are."""
        return tuple(dict.fromkeys(row.mode for row in self.rows))

    def at(self, image_size: int) -> dict[Mode | None, SweepRow]:
        """The rows of a size by mode."""
        return {row.mode: row for row in self.rows if row.image_size == image_size}


def evaluate_sizes(
    trained: TrainedModel,
    images: EvaluationImages,
    sizes: Sequence[int],
    settings: EvaluationSettings = DEFAULT_SETTINGS,
) -> Sweep:
    """Judge a model by the same images at several sizes, with the same weights.

    TransNeXt's modes: "extrapolated" evaluates the position bias at the actual displacements,
    "interpolated" resizes the trained size's, and "linear" extrapolates but keeps the pooled map at
    its trained side, which makes the cost linear in pixels.

    Args:
        trained: the model; its card says the size that it was trained at.
        images: to judge by.
        sizes: sides in pixels, from 32 up, in any order.
        settings: how the images go through the model; `on_batch` counts over the whole sweep.

    Raises:
        FovealError: no size, or one below 32 pixels.
    """
    if not sizes:
        raise FovealError("A sweep needs one image size or more, such as 128,224,384.")
    card = trained.card
    # All sizes before the first evaluation: a bad one is not to be found after an hour.
    cards = [
        replace(card, preprocessing=replace(card.preprocessing, image_size=size))
        for size in sorted(set(sizes))
    ]
    modes = mode_options(trained)
    rows: list[SweepRow] = []
    for mode, options in modes.items():
        changed = _with_options(trained, options)
        for sized in cards:
            before = len(rows) * len(images.samples)
            total = len(modes) * len(cards) * len(images.samples)
            counting = replace(settings, on_batch=_counted(settings.on_batch, before, total))
            model = replace(changed, card=replace(sized, options=changed.card.options))
            rows.append(_row(model, mode, images, counting))
    rows.sort(key=lambda row: row.image_size)
    return Sweep(
        card.model,
        card.preprocessing.image_size,
        len(images.samples),
        images.words,
        tuple(rows),
    )


def mode_options(trained: TrainedModel) -> dict[Mode | None, dict[str, Any]]:
    """The options of each way in which a model can meet a size it was not trained at."""
    if not isinstance(trained.model, TransNeXt):
        return {None: {}}
    side = pooled_side(trained.model.config, trained.card.preprocessing.image_size)
    return {
        "extrapolated": {"position_bias": "extrapolate", "pool_size": None},
        "interpolated": {"position_bias": "interpolate", "pool_size": None},
        "linear": {"position_bias": "extrapolate", "pool_size": side},
    }


def pooled_side(config: TransNeXtConfig, image_size: int) -> int:
    """Side of the pooled map in TransNeXt's first stage at an image size, whose stride is 4."""
    return max(1, image_size // (4 * config.sr_ratios[0]))


def _with_options(trained: TrainedModel, options: dict[str, Any]) -> TrainedModel:
    """The same weights in a network with other options."""
    if not options:
        return trained
    card = replace(trained.card, options={**trained.card.options, **options})
    model = card.build()
    model.load_state_dict(trained.model.state_dict())
    model.to(next(trained.model.parameters()).device)
    return replace(trained, model=model.eval(), card=card)


def _row(
    model: TrainedModel, mode: Mode | None, images: EvaluationImages, settings: EvaluationSettings
) -> SweepRow:
    evaluation = evaluate_images(model, images, settings)
    result = evaluation.result
    return SweepRow(
        evaluation.image_size,
        mode,
        result.top1,
        result.top5,
        result.ece,
        result.loss,
        evaluation.cost,
    )


def _counted(
    on_batch: Callable[[int, int], None] | None, before: int, total: int
) -> Callable[[int, int], None] | None:
    """The callback, told of the sweep's images instead of one evaluation's."""
    if on_batch is None:
        return None
    return lambda done, _: on_batch(before + done, total)
