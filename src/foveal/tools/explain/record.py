"""Collecting what the mixers of a network compute, while it runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from foveal.errors import FovealError, OptionError, closest
from foveal.models.cloformer import CloAttention
from foveal.models.dat import DeformableAttention
from foveal.models.dat_local import NeighborhoodAttention, WindowAttention
from foveal.models.efficientmod import Attention, EfficientModulation
from foveal.models.focalnet import FocalModulation
from foveal.models.transnext import AggregatedAttention, ConvGLU, FullAttention
from foveal.tools.explain.attentions import (
    AggregatedAttentionReading,
    CloAttentionReading,
    FullAttentionReading,
)
from foveal.tools.explain.deformed import (
    DeformableAttentionReading,
    NeighborhoodAttentionReading,
    WindowAttentionReading,
)
from foveal.tools.explain.modulations import (
    ConvGLUReading,
    EfficientModulationReading,
    FocalModulationReading,
)
from foveal.tools.explain.reading import OtherReading, Reading

# Every mixer of this library and what is read of it.
READINGS: Mapping[type[nn.Module], type[Reading]] = {
    FocalModulation: FocalModulationReading,
    AggregatedAttention: AggregatedAttentionReading,
    FullAttention: FullAttentionReading,
    ConvGLU: ConvGLUReading,
    CloAttention: CloAttentionReading,
    DeformableAttention: DeformableAttentionReading,
    NeighborhoodAttention: NeighborhoodAttentionReading,
    WindowAttention: WindowAttentionReading,
    EfficientModulation: EfficientModulationReading,
    Attention: FullAttentionReading,
}

OTHER_TOOLS = "effective_receptive_field, class_activation_map and insertion_deletion"


class Recording(Mapping[str, Reading]):
    """Readings by the path of their module, such as "stages.2.blocks.4.mixer".

    Empty until the network has run; after several runs, those of the last.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = tuple(paths)
        self._readings: dict[str, Reading] = {}

    def __getitem__(self, path: str) -> Reading:
        if path in self._readings:
            return self._readings[path]
        if path in self.paths:
            raise KeyError(f"{path} has not run yet: call the model inside `with record(…)`.")
        raise KeyError(f"Nothing is recorded of {path!r}.{closest(path, self.paths)}")

    def __iter__(self) -> Iterator[str]:
        return (path for path in self.paths if path in self._readings)

    def __len__(self) -> int:
        return len(self._readings)


@contextmanager
def record(model: nn.Module, only: str | Sequence[str] = "*") -> Iterator[Recording]:
    """Read every mixer as often as the network runs inside; nothing is left behind afterwards.

    `with record(model) as recording: model(images)`, then `recording["stages.0.blocks.0.mixer"]`.

    Args:
        model: any network with this library's mixers, or with modules that have
            `readings(x) -> dict[str, Tensor]`; it is not changed.
        only: patterns of module paths to read, such as "stages.3.*": readings of attention grow
            with queries times keys, so that large images are better read stage by stage.

    Raises:
        FovealError: no mixer of the network has readings, or the network is compiled.
        OptionError: none matches `only`.
    """
    if hasattr(model, "_orig_mod"):
        raise FovealError(
            "A compiled network runs past what records it: give record(model._orig_mod), and run "
            "that."
        )
    readable = readable_mixers(model)
    if not readable:
        raise FovealError(
            f"{type(model).__name__} has no mixer with readings; {OTHER_TOOLS} work with any model."
        )
    patterns = [only] if isinstance(only, str) else list(only)
    chosen = [path for path in readable if any(fnmatchcase(path, p) for p in patterns)]
    if not chosen:
        raise OptionError(
            f"only={only!r} matches none of the mixers: "
            f"{', '.join([*readable][:3])}{', …' if len(readable) > 3 else ''}."
        )
    recording = Recording(chosen)
    hooks = [
        readable[path].register_forward_hook(_keep(recording, path), with_kwargs=True)
        for path in chosen
    ]
    try:
        yield recording
    finally:
        for hook in hooks:
            hook.remove()


def readable_mixers(model: nn.Module) -> dict[str, nn.Module]:
    """The modules of a network that have readings, by path."""
    return {path: m for path, m in model.named_modules() if hasattr(m, "readings")}


def read(mixer: nn.Module, x: Tensor) -> Reading:
    """The reading of one mixer at its input (b c h w), without running a network."""
    known = (READINGS[kind] for kind in type(mixer).__mro__ if kind in READINGS)
    with torch.no_grad():
        return next(known, OtherReading).of(mixer, x)


def _keep(recording: Recording, path: str) -> Callable[..., None]:
    reading = False

    def hook(
        module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
    ) -> None:
        nonlocal reading
        # A mixer's readings may call the mixer itself.
        if not reading:
            reading = True
            try:
                recording._readings[path] = read(module, (*inputs, *named.values())[0])
            finally:
                reading = False

    return hook


__all__ = ["READINGS", "Recording", "read", "record"]
