"""EfficientMod's modulation in Triton: the context of a tile serves all groups of hidden channels.

A program has BR positions and all channels. Group by group it makes c hidden channels, multiplies
them by the context that it holds, and adds their share of the second product.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveal.kernels import launch
from foveal.kernels.tuning import blocks


@triton.jit
def forward_kernel(
    x, context, weight1, bias1, weight2, bias2, out, rows, width, groups,
    GELU: tl.constexpr, PRECISION: tl.constexpr, BR: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Both products of BR positions; channels are padded to BC, a power of two."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)[:, None]
    channel = tl.arange(0, BC)
    real = channel < width
    inside = (row < rows) & real[None, :]
    square = real[:, None] & real[None, :]
    at = row * width + channel[None, :]
    features = tl.load(x + at, mask=inside, other=0.0)
    opened = tl.load(context + at, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BR, BC), tl.float32)
    total += tl.load(bias2 + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    for group in range(groups):
        first = group * width
        # Both as (input, output), read along the rows that they have in memory.
        w1 = tl.load(
            weight1 + (first + channel[:, None]) * width + channel[None, :], mask=square, other=0.0
        )
        hidden = tl.dot(features, tl.trans(w1), input_precision=PRECISION)
        hidden += tl.load(bias1 + first + channel, mask=real, other=0.0).to(tl.float32)[None, :]
        if GELU:
            hidden = hidden * (0.5 * (1.0 + tl.math.erf(hidden * 0.7071067811865476)))
        hidden = (hidden * opened).to(features.dtype)
        w2 = tl.load(
            weight2 + channel[:, None] * width * groups + first + channel[None, :],
            mask=square, other=0.0,
        )  # fmt: skip
        total += tl.dot(hidden, tl.trans(w2), input_precision=PRECISION)
    tl.store(out + at, total.to(features.dtype), mask=inside)


def forward(
    x: Tensor, context: Tensor, layers: tuple[Tensor, Tensor, Tensor, Tensor], activation: str
) -> Tensor:
    """The contract of the package."""
    x, context = x.contiguous(), context.contiguous()
    layers = tuple(parameter.contiguous() for parameter in layers)
    out = torch.empty_like(x)
    width = x.shape[-1]
    rows, groups = x.numel() // width, layers[0].shape[0] // width
    padded = max(launch.power_of_two(width), 16)
    single = x.dtype == torch.float32
    tiles = blocks(f"modulation_mlp.{'float32' if single else 'half'}.{max(padded, 32)}")
    launch.run(
        forward_kernel,
        (launch.cdiv(rows, tiles.sizes["BR"]),),
        *(x, context, *layers, out, rows, width, groups),
        blocks=tiles,
        GELU=activation == "gelu",
        PRECISION="ieee" if single else "tf32",
        BC=padded,
    )
    return out
