"""The layers of a network that can be quantised: those with a weight of two dimensions or more."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from torch import nn


@dataclass(frozen=True)
class Layer:
    """A layer that is quantised as a whole.

    Attributes:
        name: path of its module, or of its node where the graph has no such module.
        num_weights: numbers in its weight.
        nodes: of a graph that compute it; none outside of graphs.
    """

    name: str
    num_weights: int
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerError:
    """What a layer in 8 bits does to the network's outputs.

    Attributes:
        name: of the layer.
        error: ‖outputs with this layer alone in 8 bits − outputs‖ / ‖outputs‖.
    """

    name: str
    error: float


def modules_by_weight(model: nn.Module) -> Mapping[str, str]:
    """Paths of modules by the fingerprints of their weights, as they are and transposed.

    An exporter may store a weight under any name, transposed or not; its numbers stay.
    """
    found: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        values = parameter.detach().cpu().numpy()
        path = name.removesuffix(".weight")
        found.setdefault(fingerprint(values), path)
        if values.ndim == 2:
            found.setdefault(fingerprint(values.T), path)
    return found


def fingerprint(values: np.ndarray) -> str:
    """The same for the same numbers in the same shape."""
    return f"{values.shape} {sha256(np.ascontiguousarray(values).tobytes()).hexdigest()}"


def relative_error(outputs: np.ndarray, expected: np.ndarray) -> float:
    """‖outputs − expected‖ / ‖expected‖; infinite where a number is not finite."""
    if outputs.shape != expected.shape or not np.isfinite(outputs).all():
        return float("inf")
    difference = np.linalg.norm(outputs.astype(np.float64) - expected)
    return float(difference / max(np.linalg.norm(expected.astype(np.float64)), 1e-12))
