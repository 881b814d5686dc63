"""The gated product in Triton: one pass forward, one backward that recomputes the activation."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveal.kernels import launch
from foveal.kernels.tuning import blocks

ACTIVATIONS = {"none": 0, "gelu": 1, "tanh": 2}


@triton.jit
def _value_and_slope(x, ACTIVATION: tl.constexpr):
    """act(x) and its derivative."""
    if ACTIVATION == 1:
        normal = 0.5 * (1.0 + tl.math.erf(x * 0.7071067811865476))
        value = x * normal
        slope = normal + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    elif ACTIVATION == 2:
        # tanh through the exponential of a number that is never positive.
        small = tl.exp(-2.0 * tl.abs(x))
        value = (1.0 - small) / (1.0 + small)
        value = tl.where(x < 0, -value, value)
        slope = 1.0 - value * value
    else:
        value = x
        slope = tl.full(x.shape, 1.0, tl.float32)
    return value, slope


@triton.jit
def forward_kernel(
    features, gate, out, rows, width, groups, scale,
    ACTIVATION: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A program has BR rows and BC channels of the gate, and goes through the groups."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)[:, None]
    column = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    inside = (row < rows) & (column < width)
    opened = tl.load(gate + row * width + column, mask=inside, other=0.0).to(tl.float32)
    for group in range(groups):
        at = (row * groups + group) * width + column
        x = tl.load(features + at, mask=inside, other=0.0).to(tl.float32)
        value, _ = _value_and_slope(x * scale, ACTIVATION)
        tl.store(out + at, value * opened, mask=inside)


@triton.jit
def backward_kernel(
    gradient, features, gate, d_features, d_gate, rows, width, groups, scale,
    ACTIVATION: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """As forward; the gate's gradient is summed over the groups in registers."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)[:, None]
    column = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    inside = (row < rows) & (column < width)
    opened = tl.load(gate + row * width + column, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BR, BC), tl.float32)
    for group in range(groups):
        at = (row * groups + group) * width + column
        x = tl.load(features + at, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        value, slope = _value_and_slope(x * scale, ACTIVATION)
        tl.store(d_features + at, dy * opened * slope * scale, mask=inside)
        total += dy * value
    tl.store(d_gate + row * width + column, total, mask=inside)


def forward(features: Tensor, gate: Tensor, activation: str, scale: float) -> Tensor:
    """The contract of the package."""
    features, gate = features.contiguous(), gate.contiguous()
    out = torch.empty_like(features)
    _launch("forward", (features, gate, out), gate, activation, scale)
    return out


def backward(
    gradient: Tensor, features: Tensor, gate: Tensor, activation: str, scale: float
) -> tuple[Tensor, Tensor]:
    """The gradients of features and gate."""
    gradient, features, gate = gradient.contiguous(), features.contiguous(), gate.contiguous()
    found = torch.empty_like(features), torch.empty_like(gate)
    _launch("backward", (gradient, features, gate, *found), gate, activation, scale)
    return found


def _launch(
    name: str, tensors: tuple[Tensor, ...], gate: Tensor, activation: str, scale: float
) -> None:
    kernel = {"forward": forward_kernel, "backward": backward_kernel}[name]
    tiles = blocks(f"gated_product.{name}")
    width = gate.shape[-1]
    rows, groups = gate.numel() // width, tensors[0].shape[-1] // width
    grid = (launch.cdiv(rows, tiles.sizes["BR"]), launch.cdiv(width, tiles.sizes["BC"]))
    numbers = (rows, width, groups, scale)
    launch.run(kernel, grid, *tensors, *numbers, blocks=tiles, ACTIVATION=ACTIVATIONS[activation])
