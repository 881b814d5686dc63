"""Checkpoints from files that are not trusted, into networks that they need not fit exactly."""

import argparse
import os
import pathlib
import re
import types
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from foveal.errors import CheckpointError
from foveal.models.adapt import adapt
from foveal.models.backbone import Backbone
from foveal.models.layouts import closest_variant, read_layout

_EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_PLAIN = ("model", "state_dict", "model_state_dict", "module")
_WRAPPERS = ("module.", "_orig_mod.", "model.")
_BACKBONE = "backbone."

# How numpy rebuilds an array and a scalar.
_NUMPY: tuple[Any, ...] = (np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0])


def _plain_dict(*_: object) -> dict[Any, Any]:
    """In place of a defaultdict, whose items PyTorch's reader refuses to set."""
    return {}


# Types that only hold data: making one runs no code of the file's choosing.
_HARMLESS: list[Any] = [
    argparse.Namespace,
    types.SimpleNamespace,
    (_plain_dict, "collections.defaultdict"),
    np.ndarray,
    np.dtype,
    # Not objects and records: their state could pass off raw bytes as references.
    *{type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OV"},
    # Under the names of numpy 1 and of numpy 2.
    *(
        (function, f"{module}.multiarray.{function.__name__}")
        for function in _NUMPY
        for module in ("numpy.core", "numpy._core")
    ),
    *(
        (kind, f"{module}.{kind.__name__}")
        for kind in (list, dict, tuple, int, float, str, bool, frozenset)
        for module in ("builtins", "__builtin__")
    ),
    # A Windows path can only be made on Windows, a pure one everywhere.
    *(
        (pure, f"{module}.{name}")
        for pure, names in (
            (pathlib.PurePosixPath, ("PosixPath", "PurePosixPath")),
            (pathlib.PureWindowsPath, ("WindowsPath", "PureWindowsPath")),
        )
        for name in names
        for module in ("pathlib", "pathlib._local")
    ),
]


@dataclass(frozen=True)
class CheckpointFile:
    """What a file holds.

    Attributes:
        source: the file's path, or the address it came from.
        weights: by the file's own keys, without wrappers' prefixes.
        notes: what was chosen or left out on the way, in sentences.
        of_detector: the weights are the backbone of a larger network.
    """

    source: str
    weights: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    of_detector: bool = False


@dataclass(frozen=True)
class LoadReport:
    """What loading a checkpoint did; prints as sentences.

    Attributes:
        source: the file's path, or the address it came from.
        layout: "Foveal", "official" or "timm": whose keys the file has.
        num_loaded: tensors of the model that have the checkpoint's values.
        fresh: keys of the model that keep their initial values.
        changes: what was chosen, dropped or adapted, in sentences.
    """

    source: str
    layout: str
    num_loaded: int
    fresh: tuple[str, ...]
    changes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"Loaded {self.num_loaded} tensors from {self.source} ({self.layout} layout)."]
        return "\n".join([*lines, *(f"- {change}" for change in self.changes)])


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> LoadReport:
    """Load a file into a network, in Foveal's, the official or timm's layout, adapted to fit.

    Other class counts, image channels, focal kernels and levels, and DAT tables of another
    resolution are adapted; the report says how. No code from the file is run.

    Raises:
        CheckpointError: the file cannot be read, or does not fit; the model is then untouched.
    """
    return load_weights(_require_whole(model, path), open_checkpoint(path))


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """A file's weights by its own keys, out of their wrappers; EMA weights where there are some.

    Args:
        path: .safetensors, or anything that `torch.save` wrote. No code from the file is run.

    Raises:
        CheckpointError: the file is missing, damaged, or no checkpoint, or holds more than data.
    """
    return open_checkpoint(path).weights


def open_checkpoint(path: str | os.PathLike[str], source: str = "") -> CheckpointFile:
    """`read_checkpoint` with a record of what was chosen; errors name `source`, if given."""
    path = Path(path)
    source = source or str(path)
    head = _head(path, source)
    if _is_safetensors(head, path):
        content: object = _load_safetensors(path, source)
    else:
        content = _load_torch(path, source, head)
    return unwrap(content, source)


def load_weights(model: Backbone, file: CheckpointFile) -> LoadReport:
    """Fit weights to a network and load them, all or none.

    Raises:
        CheckpointError: they do not fit; the model is then untouched.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise CheckpointError(
            f"{file.source}: a model on the meta device has nowhere to keep weights; create it on "
            "another device, or call model.to_empty(device=...) first."
        )
    try:
        reading = read_layout(model, file.weights)
        weights, notes = dict(reading.weights), list(file.notes)
        for key in reading.unknown:
            if file.of_detector and re.match(r"norm\d+\.", key):
                notes.append(f"left out {key}, a norm of the detector's.")
            else:
                weights[key] = file.weights[key]
    except CheckpointError as error:
        raise CheckpointError(f"{file.source}: {error}") from error
    try:
        fitted = adapt(weights, model, without_norm=file.of_detector)
    except CheckpointError as error:
        variant = closest_variant(model, file.weights)
        hint = f" Its keys and sizes are those of {variant}." if variant else ""
        raise CheckpointError(f"{file.source}: {error}{hint}") from error
    model.load_state_dict(fitted.state_dict)
    return LoadReport(
        source=file.source,
        layout=reading.layout,
        num_loaded=len(fitted.state_dict) - len(fitted.fresh),
        fresh=tuple(fitted.fresh),
        changes=(*notes, *fitted.sentences()),
    )


def unwrap(content: object, source: str) -> CheckpointFile:
    """The state dict inside what a file holds.

    Raises:
        CheckpointError: there is none.
    """
    notes: list[str] = []
    weights = _find_weights(content, notes)
    if weights is None:
        held = ", ".join(map(str, list(content)[:4])) if isinstance(content, Mapping) else ""
        raise CheckpointError(
            f"{source} holds no weights, but {f'a dict of {held}' if held else type(content)}; "
            "give a file with a state dict, by itself or under 'model' or 'state_dict'."
        )
    weights = _without_wrappers(weights)
    inner = {k.removeprefix(_BACKBONE): v for k, v in weights.items() if k.startswith(_BACKBONE)}
    if not inner:
        return CheckpointFile(source, weights, tuple(notes))
    if len(weights) > len(inner):
        rest = len(weights) - len(inner)
        notes.append(f"kept the backbone's weights, left out {rest} tensors of what is around it.")
    return CheckpointFile(source, _without_wrappers(inner), tuple(notes), of_detector=True)


def _find_weights(content: object, notes: list[str]) -> dict[str, Tensor] | None:
    """The innermost state dict, the moving average's before the last step's."""
    if not isinstance(content, Mapping):
        return None
    for key in (*_EMA, *_PLAIN):
        found = _find_weights(content.get(key), notes)
        if found is not None:
            if key in _EMA:
                notes.append(f"took the moving average of the weights (EMA), under {key!r}.")
            return found
    tensors = {
        str(key): tensor
        for key, value in content.items()
        if (tensor := _as_tensor(value)) is not None
    }
    return tensors or None


def _as_tensor(value: object) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    return None


def _without_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys without what DistributedDataParallel, torch.compile and trainers put before them."""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _WRAPPERS:
            if all(key.startswith(prefix) for key in weights):
                weights = {key.removeprefix(prefix): value for key, value in weights.items()}
                stripped = True
    return weights


def _require_whole(model: nn.Module, path: object) -> Backbone:
    if isinstance(model, Backbone):
        return model
    raise CheckpointError(
        f"load_checkpoint takes a whole network, got a {type(model).__name__}; for features alone "
        "use foveal.create_model(NAME, pretrained=True, features_only=True, "
        f"pretrained_cfg_overlay=dict(file={str(path)!r}))."
    )


def _head(path: Path, source: str) -> bytes:
    """The first bytes, once it is clear that the file could be a checkpoint."""
    if path.is_dir():
        raise CheckpointError(f"{source} is a folder; give a checkpoint file in it.")
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except FileNotFoundError as error:
        raise CheckpointError(f"{source} does not exist; check the path.") from error
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{source} cannot be opened: {reason}; check the file.") from error
    if not head:
        raise CheckpointError(f"{source} is empty (0 bytes); fetch it again.")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<script")):
        raise CheckpointError(
            f"{source} is a web page (HTML), not a checkpoint: a site that asks to log in or to "
            "confirm, as Google Drive does, sends one; download the file in a browser."
        )
    if text.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{source} is a Git LFS pointer; run `git lfs pull` for the file.")
    return head


def _is_safetensors(head: bytes, path: Path) -> bool:
    """By content, as caches and converters lose file name endings."""
    if head.startswith((b"PK", b"\x80")):
        return False
    return head[8:9] == b"{" or path.suffix == ".safetensors"


def _load_safetensors(path: Path, source: str) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{source} is cut off or is no safetensors file ({error}; {path.stat().st_size} "
            "bytes); fetch it again."
        ) from error


def _load_torch(path: Path, source: str, head: bytes) -> object:
    if head.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise _cut_off(path, source)
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    # Whatever the reader trips over in a file that anybody may have written.
    except Exception as error:
        raise _explain(error, path, source) from error


def _explain(error: Exception, path: Path, source: str) -> CheckpointError:
    message = str(error)
    name = re.search(r"GLOBAL (\S+)|but got <class '([\w.]+)'>", message)
    kind = name and (name[1] or name[2])
    if kind and kind.startswith("yacs."):
        return CheckpointError(
            f"{source} holds a yacs configuration ({kind}) beside its weights; it is not read, "
            "as that would run its code. If you trust the file, run this where yacs is installed "
            f"and give the new file: {_resave(source)}"
        )
    if kind:
        return CheckpointError(
            f"{source} refers to {kind}, which is not among the types that only hold data; "
            "nothing of it was executed. If you trust the file, save its tensors alone where it "
            f"was made: {_resave(source)}"
        )
    if isinstance(error, EOFError) or re.search(r"EOF|truncated|Ran out of input", message):
        return _cut_off(path, source)
    return CheckpointError(
        f"{source} is not a checkpoint that PyTorch or safetensors can read, or it is damaged "
        f"({path.stat().st_size} bytes); fetch it again."
    )


def _resave(source: str) -> str:
    file = source if Path(source).exists() else Path(source).name
    new = f"{Path(source).stem}_weights.pth"
    return (
        f"python -c \"import torch; c = torch.load({file!r}, map_location='cpu', "
        f"weights_only=False); torch.save(c.get('model', c.get('state_dict')), {new!r})\""
    )


def _cut_off(path: Path, source: str) -> CheckpointError:
    return CheckpointError(
        f"{source} is cut off (truncated) after {path.stat().st_size} bytes; fetch it again."
    )
