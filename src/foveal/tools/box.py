"""The model in the box: a small trained network that comes with the library, for use offline."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foveal.tools.trained import TrainedModel, load_trained
from foveal.train.checkpoint import read_metadata, write_weights

BOX = Path(__file__).parents[1] / "box" / "efficientmod_xxs.safetensors"


def load_boxed() -> TrainedModel:
    """The model in the box; `docs/box.md` is its card."""
    return replace(load_trained(BOX), source="the model in the box")


def write_boxed(checkpoint: Path, target: Path = BOX) -> Mapping[str, Any]:
    """Put a run's weights into the box, in float16.

    Args:
        checkpoint: what `foveal train` wrote.
        target: where they go.

    Returns:
        what travels with them.
    """
    from safetensors.torch import load_file

    metadata = read_metadata(checkpoint)
    # Where the images lay concerns nobody else.
    metadata["data"] = {"seed": metadata["data"]["seed"]}
    tensors = {
        key: value.to(torch.float16) if value.is_floating_point() else value
        for key, value in load_file(checkpoint).items()
    }
    write_weights(target, tensors, metadata)
    return metadata
