"""Explanations for papers: figures as PNG and SVG, and all numbers as NPZ."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from foveal.errors import MissingExtraError
from foveal.files import atomic_path
from foveal.tools.explain.explanation import Explanation
from foveal.tools.explain.names import numbered
from foveal.tools.explain.reading import Reading
from foveal.tools.explain.run import Explained
from foveal.tools.report.titles import image_titles, model_titles

OnDone = Callable[[int, int], None]


def write_figures(
    explanation: Explanation,
    folder: Path,
    on_done: OnDone,
    *,
    formats: tuple[str, ...] = ("png", "svg"),
) -> list[Path]:
    """One figure for each image and model: the last block of every stage, all its views.

    Args:
        explanation: of any number of images and models.
        folder: for "IMAGE--MODEL.FORMAT"; made if need be.
        on_done: told how many of how many figures are done.
        formats: of each figure.

    Returns:
        The files, figure by figure.

    Raises:
        FovealError: matplotlib is not installed, or the folder cannot be written to.
    """
    try:
        from foveal.tools.report.explanation_figures import figure_of
    except ImportError as error:
        raise MissingExtraError("matplotlib", "explain") from error

    titled = [
        (title, model, model_title)
        for title, image in zip(image_titles(explanation), explanation.images, strict=True)
        for model, model_title in zip(image.models, model_titles(image.models), strict=True)
    ]
    written = []
    names = file_names(explanation)
    for index, (name, parts) in enumerate(zip(names, titled, strict=True), start=1):
        paths = [folder / f"{name}.{suffix}" for suffix in formats]
        _save(figure_of(*parts), paths)
        written += paths
        on_done(index, len(names))
    return written


def _save(figure: Any, paths: list[Path]) -> None:
    """A figure in the formats that the paths end in."""
    with warnings.catch_warnings():
        # Names may have letters that the font lacks: boxes say so well enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        # Lay it out once, not once for each format.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for target in paths:
            with atomic_path(target) as path:
                figure.savefig(path, dpi=150)


def write_arrays(explained: Explained, folder: Path, on_done: OnDone) -> list[Path]:
    """All readings of each image and model as "IMAGE--MODEL.npz", keys being "path/field".

    Returns:
        The files; there is none where a model has no readings.

    Raises:
        FovealError: the folder cannot be written to.
    """
    names = file_names(explained.explanation)
    recordings = [recording for row in explained.recordings for recording in row]
    written = []
    for index, (recording, name) in enumerate(zip(recordings, names, strict=True), start=1):
        if recording:
            with atomic_path(folder / f"{name}.npz") as path:
                np.savez_compressed(path, **arrays_of(recording))  # pyright: ignore[reportArgumentType]
            written.append(folder / f"{name}.npz")
        on_done(index, len(names))
    return written


def arrays_of(recording: Mapping[str, Reading]) -> dict[str, np.ndarray]:
    """Every array of every reading by "path/field"; of several, "path/field_0" and so on.

    Numbers, such as the side of a window, are arrays without axes; several, such as the size of
    the map, have one.
    """
    arrays: dict[str, np.ndarray] = {}
    for path, reading in recording.items():
        for field in fields(reading):  # pyright: ignore[reportArgumentType]
            value = getattr(reading, field.name)
            if isinstance(value, Mapping):
                parts = {f"{path}/{key}": part for key, part in value.items()}
            elif isinstance(value, tuple) and value and isinstance(value[0], np.ndarray):
                parts = {f"{path}/{field.name}_{i}": part for i, part in enumerate(value)}
            elif _is_numbers(value):
                parts = {f"{path}/{field.name}": np.asarray(value)}
            else:
                parts = {f"{path}/{field.name}": value}
            arrays |= {key: part for key, part in parts.items() if isinstance(part, np.ndarray)}
    return arrays


def _is_numbers(value: object) -> bool:
    """Whether it is a number, true or false, or a tuple of such."""
    parts = value if isinstance(value, tuple) and value else (value,)
    return all(isinstance(part, bool | int | float | np.number) for part in parts)


def file_names(explanation: Explanation) -> list[str]:
    """A name for each pair of image and model, image by image; those that recur are numbered."""
    return numbered(
        [
            f"{Path(image.name).stem}--{model.model.replace(':', '-').replace('/', '-')}"
            for image in explanation.images
            for model in image.models
        ],
        "{}-{}",
    )
