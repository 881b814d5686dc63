"""A folder that NVIDIA's Triton Inference Server serves a model from.

python -m examples.serve.triton_repository --output models [--checkpoint DIR] [--name NAME]
"""

import re
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.export import Dim

from foveal.errors import FovealError
from foveal.files import require_writable, write_text
from foveal.tools.box import load_boxed
from foveal.tools.export.formats import FORMATS
from foveal.tools.export.subject import ExportOptions, subject_of
from foveal.tools.trained import ModelCard, TrainedModel, load_trained

INPUT, OUTPUT, LABELS, VERSION = "image", "logits", "labels.txt", "1"
DELAY_MICROSECONDS = 5000


def write_repository(
    trained: TrainedModel, folder: str | Path, *, name: str | None = None, max_batch: int = 16
) -> Path:
    """Write FOLDER/NAME/config.pbtxt, FOLDER/NAME/labels.txt and FOLDER/NAME/1/model.onnx.

    Args:
        trained: the model.
        folder: the repository; other models in it are left as they are.
        name: of the model there; the network's own by default.
        max_batch: images that Triton gives the model at once.

    Returns:
        the model's folder.

    Raises:
        FovealError: the model has no classes, its name or a class's is no use to Triton, or the
            folder holds it already.
    """
    card = trained.card
    name = re.sub(r"[^\w.-]", "_", card.model, flags=re.ASCII) if name is None else name
    _require_usable(card, name, max_batch)
    model = Path(folder) / name
    if model.exists():
        raise FovealError(f"{model} is there already; delete it, or give another --name.")
    require_writable(model / "config.pbtxt")
    model.parent.mkdir(parents=True, exist_ok=True)
    # Triton may be watching: it sees all of the model or nothing.
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=model.parent) as hidden:
        made = Path(hidden) / name
        (made / VERSION).mkdir(parents=True)
        write_onnx(trained, made / VERSION / "model.onnx")
        write_text(made / LABELS, "".join(f"{label}\n" for label in card.classes))
        write_text(made / "config.pbtxt", config(card, name, max_batch))
        made.rename(model)
    return model


def write_onnx(trained: TrainedModel, path: Path) -> None:
    """The network from any number of normalised images, of its size, to logits."""
    side = trained.card.preprocessing.image_size
    subject = subject_of(trained, ExportOptions(image_size=(side, side), dynamic=False))
    with torch.no_grad():
        program = torch.export.export(
            subject.module, (subject.example,), dynamic_shapes=({0: Dim("batch")},)
        )
    FORMATS["onnx"].write(program, subject, path)


def config(card: ModelCard, name: str, max_batch: int) -> str:
    """The model's configuration, in Protocol Buffers' text format."""
    preprocessing = card.preprocessing
    side = preprocessing.image_size
    parameters = {
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": (preprocessing.interpolation,),
        "crop_pct": (preprocessing.crop_pct,),
    }
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch}",
        f'input [{{ name: "{INPUT}" data_type: TYPE_FP32 '
        f"dims: [{preprocessing.in_chans}, {side}, {side}] }}]",
        f'output [{{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [{len(card.classes)}] '
        f'label_filename: "{LABELS}" }}]',
        f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY_MICROSECONDS} }}",
    ]
    for key, values in parameters.items():
        text = ", ".join(map(str, values))
        lines.append(f'parameters {{ key: "{key}" value {{ string_value: "{text}" }} }}')
    return "\n".join(lines) + "\n"


def _require_usable(card: ModelCard, name: str, max_batch: int) -> None:
    if not card.classes:
        raise FovealError(f"{card.model} has no classes; give a checkpoint of `foveal train`.")
    if not re.fullmatch(r"[\w-][\w.-]*", name, re.ASCII):
        raise FovealError(
            f"Triton's names have letters, digits, '_', '-' and '.', got {name!r}; "
            "give another --name."
        )
    if max_batch < 1:
        raise FovealError(f"--max-batch is 1 or more, got {max_batch}.")
    if any("\n" in label or "\r" in label for label in card.classes):
        raise FovealError("A class has a name of several lines, which a labels file cannot hold.")


def main(argv: Sequence[str] | None = None) -> int:
    """Write a repository; exit code 0, or 2 for what cannot be used."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="the repository's folder")
    parser.add_argument("--checkpoint", help="of `foveal train` (default: the model in the box)")
    parser.add_argument("--name", help="of the model (default: the network's)")
    parser.add_argument("--max-batch", type=int, default=16, help="default: %(default)s")
    given = parser.parse_args(argv)
    try:
        trained = load_boxed() if given.checkpoint is None else load_trained(given.checkpoint)
        print(write_repository(trained, given.output, name=given.name, max_batch=given.max_batch))
    except FovealError as error:
        print(f"triton_repository: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
