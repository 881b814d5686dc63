"""Quantising: calibrate, write, judge, keep in float what hurts, then put the file in place."""

import os
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float

from foveal.errors import FovealError
from foveal.files import require_writable
from foveal.tools.evaluate import DEFAULT_SETTINGS, EvaluationImages, EvaluationSettings
from foveal.tools.export.formats import Run, move_beside
from foveal.tools.export.subject import ExportOptions, Subject, subject_of
from foveal.tools.quantize.judge import Logits, Verdict, verdict
from foveal.tools.quantize.layers import Layer, LayerError
from foveal.tools.quantize.onnx_file import OnnxQuantizer
from foveal.tools.quantize.openvino_file import OpenVinoQuantizer
from foveal.tools.quantize.options import STATIC, QuantizeOptions, require_suffix
from foveal.tools.quantize.report import Accuracy, Quantization
from foveal.tools.quantize.search import fewest_floats
from foveal.tools.quantize.sizes import check_other_sizes
from foveal.tools.quantize.weight_only import WeightQuantizer
from foveal.tools.trained import TrainedModel

OnDone = Callable[[int, int], None]

DEFAULT_OPTIONS = QuantizeOptions()

# Images that layers are ranked by.
RANKED_BY = 64


class Quantizer(Protocol):
    """A network that can be written with any of its layers in 8 bits."""

    layers: tuple[Layer, ...]
    float_bytes: int

    def write(self, path: Path, floats: Collection[str] = ()) -> None:
        """The file, with the layers of these names in float."""
        ...

    def open(self, path: Path) -> Run:
        """What runs a file that was written."""
        ...

    def error_alone(self, layer: Layer, count: int) -> float:
        """What the outputs for the first images differ by if this layer alone is in 8 bits."""
        ...


@dataclass(frozen=True)
class _Trial:
    """A file that was written with some layers in float, and what it is worth."""

    file: Path
    megabytes: float
    verdict: Verdict | None


class _Session:
    """One network on its way to a file: writes trials, judges them, tells how far it is."""

    def __init__(
        self,
        trained: TrainedModel,
        quantizer: Quantizer,
        folder: Path,
        suffix: str,
        judged: EvaluationImages | None,
        settings: EvaluationSettings,
        steps: "_Steps",
    ):
        self.trained = trained
        self.quantizer = quantizer
        self.folder = folder
        self.name = f"trial{suffix}"
        self.judged = judged
        self.settings = settings
        self.steps = steps
        self.trials: dict[int, _Trial] = {}
        self.ranking: tuple[LayerError, ...] = ()

    def judge(self, logits: Logits) -> Verdict | None:
        """What something makes of the images, if there are any."""
        if self.judged is None:
            return None
        found = verdict(logits, self.judged, self.trained.card.preprocessing, self.settings)
        self.steps.done()
        return found

    def rank(self) -> None:
        """Find out what every layer does to the outputs."""
        layers = self.quantizer.layers
        self.steps.add(len(layers))
        errors = []
        for layer in layers:
            errors.append(LayerError(layer.name, self.quantizer.error_alone(layer, RANKED_BY)))
            self.steps.done()
        self.ranking = tuple(sorted(errors, key=lambda found: -found.error))

    def floats(self, count: int) -> tuple[str, ...]:
        """The most harmful layers."""
        return tuple(layer.name for layer in self.ranking[:count])

    def trial(self, count: int) -> _Trial:
        """The file with so many layers in float."""
        if count not in self.trials:
            self.steps.add(1 if self.judged is None else 2)
            folder = self.folder / str(count)
            folder.mkdir()
            file = folder / self.name
            self.quantizer.write(file, self.floats(count))
            self.steps.done()
            run = self.quantizer.open(file)
            found = self.judge(lambda images: torch.from_numpy(np.asarray(run(images)[0])))
            size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
            self.trials[count] = _Trial(file, size, found)
        return self.trials[count]


class _Steps:
    """Counts steps, of which more may become known on the way."""

    def __init__(self, on_done: OnDone):
        self.on_done = on_done
        self.finished = self.total = 0

    def add(self, count: int) -> None:
        self.total += count

    def done(self) -> None:
        self.finished += 1
        self.on_done(self.finished, self.total)


def quantize_model(
    trained: TrainedModel,
    output: str | os.PathLike[str],
    images: Float[np.ndarray, "n c h w"],
    options: QuantizeOptions = DEFAULT_OPTIONS,
    judged: EvaluationImages | None = None,
    settings: EvaluationSettings = DEFAULT_SETTINGS,
    on_done: OnDone = lambda *_: None,
) -> Quantization:
    """A trained model as a file in 8 bits that is right about as often.

    Args:
        trained: the model, on the CPU.
        output: the file.
        images: inputs to calibrate with, of the size that the model's card says.
        options: how.
        judged: held-out images that decide which layers stay in float; without them none does.
        settings: how these go through the network.
        on_done: told how many of how many steps are done, as far as they are known.

    Raises:
        FovealError: the file is misnamed, the model has no classifier, a package is missing, or
            the network cannot be exported; then there is no file.
    """
    target = Path(output)
    require_suffix(options.format, target)
    require_writable(target)
    _require_images(images, trained)
    subject = _subject(trained, options)
    if not options.dynamic:
        settings = EvaluationSettings(batch_size=1, workers=settings.workers)
    steps = _Steps(on_done)
    steps.add(1 if judged is None else 2)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", dir=target.parent) as folder:
        quantizer = _quantizer(trained, subject, images, options.format, Path(folder))
        steps.done()
        session = _Session(trained, quantizer, Path(folder), target.suffix, judged, settings, steps)
        count, accuracy = _fewest(session, options)
        chosen = session.trial(count)
        sizes = check_other_sizes(subject, quantizer.open(chosen.file), images)
        files = move_beside(chosen.file, target)
    return Quantization(
        trained.card.model,
        options.format,
        tuple(files),
        len(images) if options.format in STATIC else 0,
        tuple(layer.name for layer in quantizer.layers),
        session.floats(count),
        session.ranking,
        quantizer.float_bytes / 1e6,
        session.trials[0].megabytes,
        chosen.megabytes,
        sizes,
        accuracy,
    )


def _fewest(session: _Session, options: QuantizeOptions) -> tuple[int, Accuracy | None]:
    """How many layers stay in float, and the accuracy with that many."""
    network = session.judge(session.trained.model)
    first = session.trial(0)
    if options.rank_layers:
        session.rank()
    if network is None or first.verdict is None or session.judged is None:
        return 0, None

    def drop(count: int) -> float:
        found = session.trial(count).verdict
        assert found is not None
        return network.top1 - found.top1

    count = 0
    if drop(0) > options.max_drop:
        if not session.ranking:
            session.rank()
        count = fewest_floats(drop, len(session.ranking), options.max_drop)
    found = session.trial(count).verdict
    assert found is not None
    accuracy = Accuracy(
        session.judged.words,
        len(network.predictions),
        network.top1,
        first.verdict.top1,
        found.top1,
        found.agreement(network),
    )
    return count, accuracy


def _quantizer(
    trained: TrainedModel, subject: Subject, images: np.ndarray, format: str, folder: Path
) -> Quantizer:
    match format:
        case "onnx":
            return OnnxQuantizer(subject, images, folder)
        case "openvino":
            return OpenVinoQuantizer(subject, images, folder)
        case _:
            return WeightQuantizer(trained, images, folder)


def _subject(trained: TrainedModel, options: QuantizeOptions) -> Subject:
    side = trained.card.preprocessing.image_size
    batch = 2 if options.dynamic else 1
    size = (side, side)
    return subject_of(
        trained, ExportOptions(image_size=size, batch_size=batch, dynamic=options.dynamic)
    )


def _require_images(images: np.ndarray, trained: TrainedModel) -> None:
    preprocessing = trained.card.preprocessing
    wanted = (preprocessing.in_chans, preprocessing.image_size, preprocessing.image_size)
    if not len(images) or images.shape[1:] != wanted:
        raise FovealError(
            f"{trained.card.model} is calibrated with one or more images of "
            f"{' × '.join(map(str, wanted))}, got {' × '.join(map(str, images.shape))}."
        )
