"""From a pretrained configuration to weights in a model."""

import hashlib
import http.client
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlparse
from urllib.request import Request

from timm.models import load_state_dict_from_hf
from timm.models._builder import _resolve_pretrained_source
from timm.models._hub import get_cache_dir
from torch.hub import download_url_to_file

from foveal.errors import CheckpointError
from foveal.files import atomic_path, write_text
from foveal.models.backbone import Backbone
from foveal.models.checkpoint import LoadReport, load_weights, open_checkpoint, unwrap

_logger = logging.getLogger("foveal")

# Names so common that the folders before them must tell files apart in one cache.
_COMMON_NAMES = ("model", "pytorch_model", "checkpoint", "weights")
_SAVED_NAMES = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")


def load_pretrained(
    model: Backbone, cfg: dict[str, Any], cache_dir: str | os.PathLike[str] | None = None
) -> LoadReport:
    """Load the weights that timm's `cfg` points to, adapted to fit; logs what it did.

    Args:
        model: the network.
        cfg: a `PretrainedCfg` as a dict: url, file, state_dict, hf_hub_id or a local directory.
        cache_dir: where downloads are kept; PyTorch's own cache by default.

    Raises:
        CheckpointError: there is no file to load, or it is not what it should be. A download that
            failed leaves nothing in the cache.
    """
    source, place = _resolve_pretrained_source(cfg)
    report = _load_from(model, source, place, cfg, cache_dir)
    _logger.info("%s", report)
    if "head.fc.weight" in report.fresh and model.num_classes == cfg.get("num_classes"):
        _logger.warning("%s has no classifier: the model's is untrained.", report.source)
    return report


def _load_from(
    model: Backbone,
    source: str,
    place: Any,
    cfg: dict[str, Any],
    cache_dir: str | os.PathLike[str] | None,
) -> LoadReport:
    match source:
        case "state_dict":
            return load_weights(model, unwrap(place, "the given state dict"))
        case "file":
            return load_weights(model, open_checkpoint(place))
        case "local-dir":
            return load_weights(model, open_checkpoint(_file_in(Path(place))))
        case "hf-hub":
            return _load_from_hub(model, place, cache_dir)
        case "url":
            return _load_from_url(model, place, cache_dir)
    raise CheckpointError(_no_link(cfg))


def _no_link(cfg: dict[str, Any]) -> str:
    name = str(cfg.get("architecture") or "this model").removeprefix("foveal_")
    where = " ".join(cfg.get("notes") or ())
    return (
        f"No direct link exists to weights of {name}. {where} With the file at hand, run "
        f"`foveal convert FILE --model {name} --output {name}.safetensors`, then "
        f"foveal.load_checkpoint(model, '{name}.safetensors')."
    )


def _file_in(folder: Path) -> Path:
    """The weights among what timm's `save_for_hf`, or anybody, put in a folder."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give one with a checkpoint in it.")
    named: Iterable[Path] = (folder / name for name in _SAVED_NAMES)
    other: Iterable[Path] = (p for end in _ENDINGS for p in sorted(folder.glob(f"*{end}")))
    for path in (*named, *other):
        if path.is_file():
            return path
    raise CheckpointError(f"{folder} holds no checkpoint ({', '.join(_ENDINGS)}).")


def _load_from_hub(
    model: Backbone, place: str | tuple[str, str], cache_dir: str | os.PathLike[str] | None
) -> LoadReport:
    identifier, *file = (place,) if isinstance(place, str) else place
    source = f"Hugging Face {identifier}"
    try:
        weights = load_state_dict_from_hf(
            identifier,
            *file,
            weights_only=True,
            cache_dir=None if cache_dir is None else str(cache_dir),
        )
    # The hub's client, the network, safetensors and PyTorch each raise their own.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise CheckpointError(f"Cannot load {source}: {reason}") from error
    return load_weights(model, unwrap(weights, source))


def _load_from_url(
    model: Backbone,
    url: str | tuple[str, str],
    cache_dir: str | os.PathLike[str] | None,
) -> LoadReport:
    """Load a file from the cache, or download it first; it is kept once it has loaded."""
    link, name = (url, _cache_name(url)) if isinstance(url, str) else url
    path = Path(cache_dir or get_cache_dir()) / name
    record = path.with_name(f"{name}.json")
    if path.is_file():
        recorded = _read_record(path, record)
        if recorded is None or recorded["url"] == link:
            return _load_cached(model, link, path, recorded)
    with atomic_path(path) as temporary:
        _download(link, temporary)
        report = load_weights(model, open_checkpoint(temporary, link))
        facts = _facts(link, temporary)
        # The old file's record must not outlive it.
        record.unlink(missing_ok=True)
    write_text(record, json.dumps(facts, indent=2))
    return report


def _cache_name(url: str) -> str:
    """The file's own name, with the folders before it where that name is a common one."""
    parts = [part for part in unquote(urlparse(url).path).split("/") if part]
    if not parts:
        raise CheckpointError(f"{url!r} names no file; give the direct link to a checkpoint.")
    common = Path(parts[-1]).stem in _COMMON_NAMES
    return "_".join(parts if common else parts[-1:])


def _load_cached(
    model: Backbone, link: str, path: Path, recorded: dict[str, Any] | None
) -> LoadReport:
    facts = _facts(link, path)
    for fact, unit in (("size", " bytes"), ("sha256", "")):
        if recorded and recorded[fact] != facts[fact]:
            raise CheckpointError(
                f"{path} is not the file that was downloaded: its {fact} is {facts[fact]}{unit} "
                f"instead of {recorded[fact]}{unit}. Delete it ({path}) to download it again."
            )
    try:
        report = load_weights(model, open_checkpoint(path))
    except CheckpointError as error:
        raise CheckpointError(
            f"{error} If the file is not yours, delete it to download {link} again."
        ) from error
    if recorded is None:
        write_text(path.with_name(f"{path.name}.json"), json.dumps(facts, indent=2))
    return report


def _facts(link: str, path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"url": link, "size": path.stat().st_size, "sha256": digest}


def _read_record(path: Path, record: Path) -> dict[str, Any] | None:
    """What was recorded of a cached file; None for a file that came some other way."""
    if not record.is_file():
        return None
    try:
        recorded = json.loads(record.read_text(encoding="utf-8"))
        return {fact: recorded[fact] for fact in ("url", "size", "sha256")}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{record}, the record of a download, is damaged; delete it and {path}."
        ) from error


def _download(link: str, target: Path) -> None:
    try:
        # PyTorch opens its file first, and leaves it behind if the address is malformed.
        Request(link)
        download_url_to_file(link, str(target), progress=True)
    except HTTPError as error:
        raise CheckpointError(
            f"Cannot download {link}: the server answers {error.code} ({error.reason}); "
            "check the address, or try again later."
        ) from error
    except (URLError, ConnectionError, TimeoutError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise CheckpointError(
            f"Cannot download {link}: {reason}; check the connection and the address."
        ) from error
    except ValueError as error:
        raise CheckpointError(f"Cannot download {link!r}: {error}; give a full address.") from error
