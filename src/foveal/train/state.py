"""How far a run is, and how it is kept on disk to go on from."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import PickleError
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from foveal.errors import FovealError, first_line
from foveal.train.batches import Batches
from foveal.train.run_folder import RunFolder

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class RunState:
    """How far a run is; saved and restored with its tensors.

    Attributes:
        step: steps of the optimiser.
        epoch: finished epochs.
        batch: batches of the current epoch that have been trained on.
        best_score: of the best checkpoint.
        scores: the last evaluation's figures.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best_score: float = -math.inf
    scores: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return vars(self).copy()

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Go back to what `state_dict` gave."""
        vars(self).update(values)


def save_state(
    accelerator: "Accelerator", folder: RunFolder, step: int, batches: Batches, keep: int
) -> None:
    """Weights, optimiser, random numbers and place in the data, whole or not at all.

    Raises:
        FovealError: they cannot be written.
    """
    partial = folder.states / "partial"
    try:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        # Accelerate writes what is registered with it once; every process has its own place.
        torch.save(batches.state_dict(), partial / f"loader_{accelerator.process_index}.pt")
    except (OSError, RuntimeError) as error:
        raise FovealError(
            f"Cannot write the state of the run to {folder.states}: {error}; make room, "
            "then go on with --resume."
        ) from error
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.publish_state(partial, step, keep)
    accelerator.wait_for_everyone()


def load_state(accelerator: "Accelerator", folder: RunFolder) -> dict[str, Any] | None:
    """Go back to the newest state; the loader's part of it, or None where there is no state.

    Raises:
        FovealError: the state is damaged, or of another model or of other options.
    """
    saved = folder.latest_state()
    if saved is None:
        return None
    _require_whole(saved, accelerator.process_index)
    place = saved / f"loader_{accelerator.process_index}.pt"
    try:
        accelerator.load_state(str(saved))
        return torch.load(place, weights_only=True) if place.exists() else {}
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise FovealError(
            f"The state in {saved} does not fit this run ({first_line(error)}); "
            "resume with the model and options it was started with, or use --overwrite."
        ) from error


def _require_whole(saved: Path, process: int) -> None:
    """Raise if a file of a state is damaged, missing, or holds more than tensors and plain values.

    Accelerate itself passes over random numbers that it cannot read, and unpickles what is
    registered with it whatever it holds.
    """
    from accelerate.utils import load

    file = own = saved / f"random_states_{process}.pkl"
    pickled = [path for path in saved.iterdir() if path.suffix in (".pkl", ".bin", ".pt")]
    try:
        for file in (own, *pickled):
            load(file, map_location="cpu")
        for file in saved.glob("*.safetensors"):
            with safe_open(file, framework="pt"):
                pass
    except (
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
        EOFError,
        PickleError,
        SafetensorError,
    ) as error:
        raise FovealError(
            f"{file} is missing or damaged, so the run cannot go on from there; remove {saved}, "
            "and --resume takes the state before it, or begins afresh."
        ) from error
