"""A segmenter on TransNeXt, judged with its position bias extrapolated and interpolated."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from foveal.errors import OptionError
from foveal.models.transnext import TransNeXt
from foveal.tasks.segmentation.contract import Segmenter
from foveal.tasks.segmentation.result import SegmentationResult
from foveal.tools.dense import TrainedDense
from foveal.tools.scenes import SceneSettings, judge_scenes

SceneMode = Literal["extrapolated", "interpolated"]

# What each changes of the backbone's options.
MODES: dict[SceneMode, dict[str, Any]] = {
    "extrapolated": {"position_bias": "extrapolate"},
    "interpolated": {"position_bias": "interpolate"},
}


@dataclass(frozen=True)
class ModeRow:
    """The figures in one mode.

    Attributes:
        mode: how TransNeXt meets sizes that its position bias is not calibrated to.
        miou: mean intersection over union in per cent.
        macc: mean accuracy of the classes in per cent.
        aacc: share of all pixels that are right, in per cent.
        num_images: how many were judged.
    """

    mode: SceneMode
    miou: float
    macc: float
    aacc: float
    num_images: int


def judge_modes(
    trained: TrainedDense[Segmenter],
    batches: Iterable[Mapping[str, Any]],
    settings: SceneSettings,
) -> tuple[ModeRow, ...]:
    """Judge a segmenter in each mode, with the same weights on the same images.

    Args:
        trained: the segmenter, which is left as it is.
        batches: `image`, `label` and `name` of images; gone through once a mode.
        settings: how to look; `on_image` counts over all modes.

    Raises:
        OptionError: its backbone has one way of meeting any size; only TransNeXt has two.
        FovealError: a label is no class, or no pixel counts.
    """
    require_modes(trained)
    rows: list[ModeRow] = []
    for mode in MODES:
        before = sum(row.num_images for row in rows)
        evaluation = judge_scenes(
            _in_mode(trained, mode),
            batches,
            trained.card.classes,
            replace(settings, shown=0, on_image=_counted(settings, before)),
            ignore_index=trained.card.ignore_index,
        )
        rows.append(_row(mode, evaluation.result))
    return tuple(rows)


def require_modes(trained: TrainedDense[Segmenter]) -> None:
    """Raise an OptionError unless the backbone is a TransNeXt."""
    if not isinstance(trained.model.pyramid().model, TransNeXt):
        raise OptionError(
            f"{trained.card.model} meets every size in one way, so there are no modes to compare; "
            "only TransNeXt extrapolates or interpolates its position bias."
        )


def _in_mode(trained: TrainedDense[Segmenter], mode: SceneMode) -> Segmenter:
    """The same weights with the position bias in another mode."""
    card = replace(trained.card, options={**trained.card.options, **MODES[mode]})
    model = card.build()
    assert isinstance(model, Segmenter)
    model.load_state_dict(trained.model.state_dict())
    return model.to(next(trained.model.parameters()).device)


def _row(mode: SceneMode, result: SegmentationResult) -> ModeRow:
    return ModeRow(mode, result.miou, result.macc, result.aacc, result.num_images)


def _counted(settings: SceneSettings, before: int) -> Any:
    told = settings.on_image
    return None if told is None else lambda done: told(before + done)
