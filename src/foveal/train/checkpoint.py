"""Weights on disk, with what a reader must know of them in the same file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foveal.errors import CheckpointError
from foveal.files import atomic_path

# One entry of the file's metadata holds all of ours, as JSON.
_KEY = "foveal"


def write_weights(
    path: Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> None:
    """Write a state dict and its metadata as safetensors, whole or not at all.

    Args:
        path: ends in .safetensors.
        state_dict: any device; tensors that share memory are written apart.
        metadata: plain values.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state_dict.items()}
    shared = {name: value.clone() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(shared, temporary, {"format": "pt", _KEY: json.dumps(dict(metadata))})
        except SafetensorError as error:
            # What safetensors says of a full disk; atomic_path knows the errors of the system.
            raise OSError(str(error)) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """What `write_weights` was told beside the weights; empty for a file from elsewhere.

    Raises:
        CheckpointError: the file is missing, damaged, or no safetensors.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return json.loads(metadata.get(_KEY, "{}"))
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); give one that foveal wrote."
        ) from error
