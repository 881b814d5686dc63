"""The mean of several checkpoints of one training, often better than any of them.

Also called stochastic weight averaging after the fact, or a uniform soup (Wortsman et al. 2022).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from foveal.errors import CheckpointError, FovealError
from foveal.tools.trained import ModelCard, find_checkpoint, read_card
from foveal.train.checkpoint import write_weights


@dataclass(frozen=True)
class Averaging:
    """What was averaged.

    Attributes:
        model: name of the network.
        files: the checkpoints.
        output: the file written.
        num_averaged: tensors that are a mean.
        num_copied: tensors of whole numbers, such as counters, which are the last checkpoint's.
    """

    model: str
    files: tuple[Path, ...]
    output: Path
    num_averaged: int
    num_copied: int


def average_checkpoints(
    checkpoints: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]
) -> Averaging:
    """Write the mean of checkpoints of the same network.

    Parameters and buffers that are fractions are averaged in float64 and written in their own
    dtype; running statistics of batch norms are averaged like them.

    Args:
        checkpoints: two or more files, or folders of training runs.
        output: ends in .safetensors.

    Raises:
        FovealError: fewer than two checkpoints, one that cannot be read or is of another network,
            or an output that cannot be written.
    """
    output = Path(output)
    if output.suffix != ".safetensors":
        raise FovealError(f"The output is a .safetensors file, got {output}.")
    if len(checkpoints) < 2:
        raise FovealError(f"An average takes two checkpoints or more, got {len(checkpoints)}.")
    files = [find_checkpoint(path) for path in checkpoints]
    cards = [_card(file) for file in files]
    for file, card in zip(files[1:], cards[1:], strict=True):
        _require_same_network(files[0], cards[0], file, card)
    mean, copied = _mean(files)
    metadata = replace(cards[-1], metrics={}).to_metadata()
    write_weights(output, {**mean, **copied}, {**metadata, "averaged": [str(f) for f in files]})
    return Averaging(cards[-1].model, tuple(files), output, len(mean), len(copied))


def _mean(files: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The mean of all tensors of fractions, and the others of the last file."""
    first = tensors = _tensors(files[0])
    sums = {k: v.to(torch.float64) for k, v in first.items() if v.is_floating_point()}
    for file in files[1:]:
        tensors = _tensors(file)
        _require_same_tensors(files[0], first, file, tensors)
        for key, total in sums.items():
            total.add_(tensors[key])
    mean = {key: (total / len(files)).to(first[key].dtype) for key, total in sums.items()}
    return mean, {key: value for key, value in tensors.items() if key not in sums}


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The weights in {file} cannot be read: {error}.") from error


def _card(file: Path) -> ModelCard:
    card = read_card(file)
    if card is None:
        raise CheckpointError(
            f"{file} does not say which model it holds, so it cannot be known to fit the others; "
            "give files that foveal wrote, or convert it with `foveal convert`."
        )
    return card


def _require_same_network(first: Path, card: ModelCard, file: Path, other: ModelCard) -> None:
    for name in ("model", "options", "classes"):
        if getattr(card, name) != getattr(other, name):
            what = f"{name} {getattr(card, name)!r} and {getattr(other, name)!r}"
            if name == "classes":
                what = f"{len(card.classes)} and {len(other.classes)} classes, not all the same"
            raise CheckpointError(
                f"{first} and {file} are different networks ({what}); "
                "average checkpoints of one training."
            )


def _require_same_tensors(
    first: Path, tensors: dict[str, Tensor], file: Path, others: dict[str, Tensor]
) -> None:
    apart = sorted(tensors.keys() ^ others.keys())
    apart += [k for k in tensors.keys() & others.keys() if tensors[k].shape != others[k].shape]
    if apart:
        raise CheckpointError(
            f"{first} and {file} have different tensors ({apart[0]} for one); "
            "average checkpoints of one training."
        )
