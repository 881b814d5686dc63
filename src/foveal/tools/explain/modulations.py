"""Readings of the mixers that modulate: FocalNet's, EfficientMod's, and TransNeXt's ConvGLU."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float
from torch import Tensor

from foveal.models.efficientmod import EfficientModulation
from foveal.models.focalnet import FocalModulation
from foveal.models.transnext import ConvGLU
from foveal.tools.explain.reading import Reading, arrays_of, to_numpy


@dataclass(frozen=True, eq=False)
class FocalModulationReading(Reading):
    """Focal modulation (FocalNet, eq. 5): y = proj(q ⊙ h(Σ g^l ⊙ z^l)).

    Attributes:
        query: q, unbounded.
        gates: g, unbounded (no activation), the last for the global context.
        contexts: z¹ … z^L+1 of every focal level, the last (b c 1 1), the global one.
        modulator: h(Σ g^l ⊙ z^l), unbounded.
        kernels: learned depthwise kernels of levels 1 … L.
        normalized: whether the sum over levels is divided by their number.
    """

    query: Float[np.ndarray, "b c h w"]
    gates: Float[np.ndarray, "b levels h w"]
    contexts: tuple[Float[np.ndarray, "b c hz wz"], ...]
    modulator: Float[np.ndarray, "b c h w"]
    kernels: tuple[Float[np.ndarray, "c k k"], ...]
    normalized: bool
    kind = "focal modulation"

    @classmethod
    def of(cls, mixer: FocalModulation, x: Float[Tensor, "b c h w"]) -> Self:
        """See `Reading.of`."""
        arrays = arrays_of(mixer, x)
        contexts = tuple(arrays[f"context_{level}"] for level in range(1, mixer.focal_level + 2))
        kernels = tuple(
            to_numpy(layer.get_parameter("weight"))[:, 0] for layer in mixer.focal_layers
        )
        named = {name: arrays[name] for name in ("query", "gates", "modulator")}
        normalized = mixer.normalize_modulator
        return cls(**named, contexts=contexts, kernels=kernels, normalized=normalized)

    @property
    def aggregate(self) -> Float[np.ndarray, "b c h w"]:
        """Σ g^l ⊙ z^l, before h: the gates applied to the contexts once more."""
        gates = np.moveaxis(self.gates, 1, 0)[:, :, None]
        total = sum(gate * context for gate, context in zip(gates, self.contexts, strict=True))
        return np.asarray(total) / (len(self.contexts) if self.normalized else 1)

    @property
    def modulator_magnitude(self) -> Float[np.ndarray, "b h w"]:
        """Root mean square of the modulator over channels, from 0 up."""
        return root_mean_square(self.modulator)


@dataclass(frozen=True, eq=False)
class EfficientModulationReading(Reading):
    """Efficient modulation (EfficientMod, eq. 4): y = fc2(hidden ⊙ repeat(context)).

    Attributes:
        context: the modulation map, unbounded.
        hidden: what it multiplies, r times as many channels.
    """

    context: Float[np.ndarray, "b c h w"]
    hidden: Float[np.ndarray, "b rc h w"]
    kind = "efficient modulation"

    @classmethod
    def of(cls, mixer: EfficientModulation, x: Float[Tensor, "b c h w"]) -> Self:
        """See `Reading.of`."""
        return cls(**arrays_of(mixer, x))

    @property
    def context_magnitude(self) -> Float[np.ndarray, "b h w"]:
        """Root mean square of the context over channels, from 0 up."""
        return root_mean_square(self.context)


@dataclass(frozen=True, eq=False)
class ConvGLUReading(Reading):
    """Convolutional GLU (TransNeXt): y = fc2(gate ⊙ value).

    Attributes:
        gate: GELU of a depthwise convolution, −0.17 and up.
        value: what it opens for, unbounded.
    """

    gate: Float[np.ndarray, "b hidden h w"]
    value: Float[np.ndarray, "b hidden h w"]
    kind = "convolutional GLU"

    @classmethod
    def of(cls, mixer: ConvGLU, x: Float[Tensor, "b c h w"]) -> Self:
        """See `Reading.of`."""
        return cls(**arrays_of(mixer, x))


def root_mean_square(maps: Float[np.ndarray, "b c h w"]) -> Float[np.ndarray, "b h w"]:
    """Over channels."""
    return np.sqrt(np.square(maps).mean(1))
