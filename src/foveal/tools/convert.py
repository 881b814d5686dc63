"""An official checkpoint as a file of ours."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from foveal.errors import CheckpointError, FovealError
from foveal.models.checkpoint import read_checkpoint
from foveal.models.factory import convert_state_dict, create_model
from foveal.tools.trained import card_of
from foveal.train.checkpoint import write_weights


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        model: name of the network.
        output: the file written.
        num_tensors: in it.
        num_classes: outputs of the classifier; 0 for none.
    """

    model: str
    output: Path
    num_tensors: int
    num_classes: int


def convert_checkpoint(
    official: str | os.PathLike[str],
    name: str,
    output: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
) -> Conversion:
    """Convert a file strictly, load the result into the network, and write it.

    Args:
        official: the authors' file.
        name: of the network in it.
        output: ends in .safetensors.
        options: that the network was made with, where they differ from the published ones.

    Raises:
        FovealError: the file cannot be read, is not of this network, or the output cannot be
            written.
    """
    output = Path(output)
    if output.suffix != ".safetensors":
        raise FovealError(f"The output is a .safetensors file, got {output}.")
    # Before the work of reading: a misspelt name is the likelier mistake.
    create_model(name, device="meta", **dict(options or {}))
    weights = convert_state_dict(name, read_checkpoint(official))
    num_classes = len(weights["head.fc.weight"]) if "head.fc.weight" in weights else 0
    made_with = {**_image_channels(weights), **(options or {})}
    model = create_model(name, num_classes=num_classes, **made_with)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"The weights in {official} have the names of {name} but not its shapes; give the "
            f"options they were made with as --option KEY=VALUE ({_first_mismatch(error)})."
        ) from error
    card = card_of(model, name, options or {})
    write_weights(output, model.state_dict(), card.to_metadata())
    return Conversion(name, output, len(weights), num_classes)


def _image_channels(weights: Mapping[str, Tensor]) -> dict[str, int]:
    """The channels that the first convolution takes, where the weights tell."""
    first = weights.get("stem.proj.weight")
    return {"in_chans": first.shape[1]} if first is not None and first.ndim == 4 else {}


def _first_mismatch(error: RuntimeError) -> str:
    lines = str(error).strip().splitlines()
    return lines[min(1, len(lines) - 1)].strip().rstrip(".")
