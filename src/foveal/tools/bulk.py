"""What a model takes very many images for: part by part, so that an interrupted run goes on."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from foveal.data.images import ImageError, Source, mode_of, read_image
from foveal.data.transforms import eval_transform
from foveal.data.unlabelled import list_images_of
from foveal.errors import FovealError, MissingExtraError
from foveal.files import atomic_path, write_text
from foveal.tasks.classification import top_classes
from foveal.tools.trained import TrainedModel, available_device, load_trained

Done = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class BulkJob:
    """Predictions for all images under a path, one row an image.

    Columns of the result: image (its file, or its place in a larger one), prediction, probability
    in [0, 1], classes and probabilities (the likeliest first), error (why an image could not be
    read, the others being empty then).

    Attributes:
        checkpoint: of the model: a run's folder, or a file.
        data: see `list_images_of`.
        output: the parquet file to write.
        top: classes an image.
        batch_size: images at a time.
        part_size: images a part; what an interruption may lose.
        device: by name; None for the fastest there is.
    """

    checkpoint: str
    data: str
    output: str
    top: int = 5
    batch_size: int = 64
    part_size: int = 1024
    device: str | None = None

    @property
    def parts(self) -> Path:
        """The folder of the finished parts."""
        return Path(f"{self.output}.parts")

    def part(self, start: int) -> Path:
        """The part that begins with this image."""
        return self.parts / f"{start:012d}.parquet"


class Predictor:
    """A model and the images, ready to write any part of a job."""

    def __init__(self, job: BulkJob):
        self.job = job
        self.trained = _load(job)
        self.images = list_images_of(job.data)
        card = self.trained.card
        self.transform, self.mode = (
            eval_transform(card.preprocessing),
            mode_of(card.preprocessing.in_chans),
        )

    def write_part(self, start: int) -> int:
        """Predict and write the part that begins with an image; how many images it has."""
        stop = min(start + self.job.part_size, len(self.images))
        rows: list[dict[str, Any]] = []
        for first in range(start, stop, self.job.batch_size):
            last = min(first + self.job.batch_size, stop)
            rows += self._predict([self.images[index] for index in range(first, last)])
        pa, parquet = _pyarrow()
        with atomic_path(self.job.part(start)) as path:
            parquet.write_table(pa.Table.from_pylist(rows, schema=_schema(pa)), path)
        return len(rows)

    def _predict(self, sources: Sequence[Source]) -> list[dict[str, Any]]:
        rows, inputs, readable = [], [], []
        for source in sources:
            row: dict[str, Any] = {"image": _name(source)}
            try:
                inputs.append(self.transform(read_image(source, self.mode)))
                readable.append(row)
            except ImageError as error:
                row["error"] = error.reason or str(error)
            rows.append(row)
        if inputs:
            device = next(self.trained.model.parameters()).device
            with torch.inference_mode():
                logits = self.trained.model(torch.stack(inputs).to(device)).float().cpu()
            names = [row["image"] for row in readable]
            found = top_classes(logits, self.trained.card.classes, names, self.job.top)
            for row, prediction in zip(readable, found, strict=True):
                row["prediction"] = prediction.top.name
                row["probability"] = prediction.top.probability
                row["classes"] = [score.name for score in prediction.scores]
                row["probabilities"] = [score.probability for score in prediction.scores]
        return rows


def predict_bulk(job: BulkJob, done: Done = lambda *_: None, *, engine: str = "local") -> int:
    """Write the predictions of a job; parts that are there already are not made again.

    Args:
        job: what to do.
        done: is told how many images of how many are done.
        engine: "local" for this process, "ray" for the machines of a Ray cluster, which share the
            file system.

    Returns:
        how many images the result has.

    Raises:
        FovealError: unusable checkpoint, data or output, or parts of another job in the way.
        MissingExtraError: ray is asked for and not installed.
    """
    _pyarrow()
    if Path(job.output).exists():
        raise FovealError(f"{job.output} exists; choose another --output, or remove it.")
    # Here, so that what is wrong is said at once and once.
    predictor = Predictor(job)
    total = len(predictor.images)
    _claim(job, predictor)
    starts = [start for start in range(0, total, job.part_size) if not job.part(start).exists()]
    finished = total - sum(min(job.part_size, total - start) for start in starts)
    done(finished, total)
    written = _by_ray(job, starts) if engine == "ray" else map(predictor.write_part, starts)
    for count in written:
        finished += count
        done(finished, total)
    _join(job, total)
    return total


def _by_ray(job: BulkJob, starts: Sequence[int]) -> Iterator[int]:
    """Parts written by Ray's workers, each with a model of its own."""
    try:
        import ray
        from ray import data
    except ImportError as error:
        raise MissingExtraError("ray", "scale") from error
    if not starts:
        return
    ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level=logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    workers = max(1, min(len(starts), int(ray.available_resources().get("CPU", 1))))
    gpus = 1 if ray.available_resources().get("GPU", 0) >= 1 else 0
    parts = data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    worker: Any = _RayPredictor
    counts = parts.map(worker, fn_constructor_args=(job,), concurrency=workers, num_gpus=gpus)
    for row in counts.iter_rows():
        yield row["images"]


class _RayPredictor:
    """What a Ray worker keeps between parts."""

    def __init__(self, job: BulkJob):
        self.predictor = Predictor(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"images": self.predictor.write_part(int(row["start"]))}


def _claim(job: BulkJob, predictor: Predictor) -> None:
    """Note down what the parts are of, or see that those there are of the same job."""
    about = {
        key: value for key, value in asdict(job).items() if key not in ("device", "batch_size")
    }
    about |= {"images": len(predictor.images), "data": str(Path(job.data).resolve())}
    about["checkpoint"] = str(Path(job.checkpoint).resolve())
    # The same path may have got other weights since, of a run that went on.
    about["weights"] = _digest(Path(predictor.trained.source))
    note = job.parts / "job.json"
    if note.exists():
        before = _read_note(note)
        for key, value in about.items():
            if before.get(key) != value:
                raise FovealError(
                    f"{job.parts} holds parts of another job, whose {key} was {before.get(key)!r} "
                    f"and not {value!r}; go on with the same, or remove that folder."
                )
        return
    write_text(note, json.dumps(about, indent=2) + "\n")


def _read_note(note: Path) -> dict[str, Any]:
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        before = None
    if not isinstance(before, dict):
        raise FovealError(
            f"{note} is damaged, so it cannot be seen what the parts beside it are of; remove "
            f"{note.parent} to begin afresh."
        )
    return before


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def _join(job: BulkJob, total: int) -> None:
    """All parts as one file, which takes their place."""
    pa, parquet = _pyarrow()
    with atomic_path(job.output) as path, parquet.ParquetWriter(path, _schema(pa)) as writer:
        for start in range(0, total, job.part_size):
            part = job.part(start)
            try:
                table = parquet.read_table(part)
            except (OSError, pa.ArrowException) as error:
                raise FovealError(
                    f"{part} is damaged; remove it, and the same command makes it again."
                ) from error
            writer.write_table(table)
    shutil.rmtree(job.parts)


def _load(job: BulkJob) -> TrainedModel:
    trained = load_trained(job.checkpoint)
    if not trained.card.classes:
        raise FovealError(f"{job.checkpoint} has no classifier, so it cannot name a class.")
    trained.model.to(available_device(job.device))
    return trained


def _name(source: Source) -> str:
    return str(source) if isinstance(source, os.PathLike) else getattr(source, "name", "")


def _schema(pa: Any) -> Any:
    kinds = {
        "image": pa.string(),
        "prediction": pa.string(),
        "probability": pa.float32(),
        "classes": pa.list_(pa.string()),
        "probabilities": pa.list_(pa.float32()),
        "error": pa.string(),
    }
    return pa.schema(list(kinds.items()))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "train") from error
    return pyarrow, parquet
