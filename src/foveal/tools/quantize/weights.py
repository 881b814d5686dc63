"""Weights of 8 bits in a safetensors file: what they are called, and what they stand for.

A layer's `weight` holds integers, its `weight_scale` one number for each row of it (each output
channel); the weight is their product. Nothing in such a file is ever executed.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int8
from torch import Tensor

SCALE = "weight_scale"


def product(integers: Int8[Tensor, "n ..."], scale: Float[Tensor, " n"]) -> Float[Tensor, "n ..."]:
    """The weight that integers and the scales of their rows stand for."""
    return integers.to(scale.dtype) * scale.reshape(-1, *[1] * (integers.ndim - 1))


def in_float(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with every weight of 8 bits multiplied out; others are returned as they are."""
    whole = dict(state_dict)
    for name, value in state_dict.items():
        scale = state_dict.get(f"{name.removesuffix('weight')}{SCALE}")
        if value.dtype == torch.int8 and name.endswith(".weight") and scale is not None:
            whole[name] = product(value, scale)
            del whole[f"{name.removesuffix('weight')}{SCALE}"]
    return whole
