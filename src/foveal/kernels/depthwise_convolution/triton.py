"""Depthwise convolutions in Triton: the columns of a row are read once for all taps that need them.

A program holds TW output columns of BH rows and BC channels as a tuple of accumulators. The rows of
all images are numbered through, each image's padded to `pitch` where a program must not straddle
two. Under dilation d a program's columns are d apart, so that they share inputs as neighbours do.
"""

# Triton does not unpack tuples.
# ruff: noqa: RUF005

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveal.kernels import launch
from foveal.kernels.tuning import Blocks, blocks

ACTIVATIONS = {"none": 0, "gelu": 1, "silu": 2}
# Programs of the weight gradient: several for each multiprocessor of a large GPU.
PROGRAMS = 1024


@triton.jit
def value_and_slope(x, ACTIVATION: tl.constexpr):
    """act(x) and its derivative."""
    if ACTIVATION == 1:
        normal = 0.5 * (1.0 + tl.math.erf(x * 0.7071067811865476))
        value = x * normal
        slope = normal + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    elif ACTIVATION == 2:
        # Through the exponential of a number that is never positive.
        small = tl.exp(-tl.abs(x))
        share = tl.where(x < 0, small, 1.0) / (1.0 + small)
        value = x * share
        slope = share * (1.0 + x * (1.0 - share))
    else:
        value = x
        slope = tl.full(x.shape, 1.0, tl.float32)
    return value, slope


@triton.jit
def first_column(tile, dilation, TW: tl.constexpr):
    """Where the columns of a tile begin; they are `dilation` apart."""
    return (tile // dilation) * (TW * dilation) + tile % dilation


@triton.jit
def convolved(
    line, weight, y, left, inside, channel, height, width, channels, stride_h, stride_w, dilation,
    size, FLIP: tl.constexpr, K: tl.constexpr, TW: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """TW accumulators (BH, BC) of the convolution, or of its adjoint with FLIP.

    `line` points to (image, row 0, column 0, channel), `weight` is (k², channels), `inside` holds
    for the rows and channels that exist. `size` is K: a loop over a wide filter's rows that ends at
    a constant would be unrolled, and run out of registers.
    """
    sums = ()
    for _ in tl.static_range(TW):
        sums = sums + (tl.zeros((BH, BC), tl.float32),)
    for i in range(K if K <= 5 else size):
        at_y = y + (i - K // 2) * dilation
        valid = inside & (at_y >= 0) & (at_y < height)
        row = line + at_y.to(tl.int64) * stride_h
        taps = ()
        for j in tl.static_range(K):
            tap = i * K + j
            if FLIP:
                tap = K * K - 1 - tap
            tap_weight = tl.load(weight + tap * channels + channel, channel < channels, 0.0)
            taps = taps + (tap_weight.to(tl.float32),)
        for column in tl.static_range(TW + K - 1):
            at_x = left + (column - K // 2) * dilation
            value = tl.load(row + at_x * stride_w, valid & (at_x >= 0) & (at_x < width), 0.0)
            value = value.to(tl.float32)
            added = ()
            for t in tl.static_range(TW):
                if (column >= t) and (column < t + K):
                    added = added + (sums[t] + value * taps[column - t],)
                else:
                    added = added + (sums[t],)
            sums = added
    return sums


@triton.jit
def forward_kernel(
    x, weight, bias, gate, out, kept, images, height, width, channels, dilation, size,
    x_b, x_h, x_w, gate_b, gate_h, gate_w,
    RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr, FLIP: tl.constexpr, K: tl.constexpr,
    TW: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A program has BH rows, TW columns and BC channels; channels are next to each other first."""
    program = tl.program_id(0)
    channel_blocks = tl.cdiv(channels, BC)
    tiles = tl.cdiv(width, TW * dilation) * dilation
    channel = (program % channel_blocks) * BC + tl.arange(0, BC)[None, :]
    program //= channel_blocks
    left = first_column(program % tiles, dilation, TW) + tl.zeros((BH, 1), tl.int32)
    row = (program // tiles).to(tl.int64) * BH + tl.arange(0, BH)[:, None]
    image, y = row // height, (row % height).to(tl.int32)
    inside = (image < images) & (channel < channels)
    line = x + image * x_b + channel
    sums = convolved(
        line, weight, y, left, inside, channel, height, width, channels, x_h, x_w, dilation,
        size, FLIP, K, TW, BH, BC,
    )  # fmt: skip
    for t in tl.static_range(TW):
        at_x = left + t * dilation
        valid = inside & (at_x < width)
        value = sums[t]
        if bias is not None:
            value += tl.load(bias + channel, channel < channels, 0.0).to(tl.float32)
        if RESIDUAL:
            value += tl.load(line + y.to(tl.int64) * x_h + at_x * x_w, valid, 0.0).to(tl.float32)
        at = (row * width + at_x) * channels + channel
        if kept is not None:
            tl.store(kept + at, value, valid)
        value, _ = value_and_slope(value, ACTIVATION)
        if gate is not None:
            opened = gate + image * gate_b + y.to(tl.int64) * gate_h + at_x * gate_w + channel
            value *= tl.load(opened, valid, 0.0).to(tl.float32)
        tl.store(out + at, value, valid)


@triton.jit
def epilogue_backward_kernel(
    gradient, kept, gate, d_kept, d_gate, pixels, channels, pitch,
    ACTIVATION: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The gradients of what the activation is applied to, and of the gate (rows `pitch` apart)."""
    pixel = tl.program_id(0).to(tl.int64) * BP + tl.arange(0, BP)[:, None]
    channel = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    valid = (pixel < pixels) & (channel < channels)
    at = pixel * channels + channel
    value, slope = value_and_slope(tl.load(kept + at, valid, 0.0).to(tl.float32), ACTIVATION)
    dy = tl.load(gradient + at, valid, 0.0).to(tl.float32)
    if gate is not None:
        tl.store(d_gate + at, dy * value, valid)
        dy *= tl.load(gate + pixel * pitch + channel, valid, 0.0).to(tl.float32)
    tl.store(d_kept + at, dy * slope, valid)


@triton.jit
def weight_kernel(
    gradient, x, partial, images, height, width, channels, dilation, steps, x_b, x_h, x_w,
    K: tl.constexpr, TW: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """A program sums one row of taps over `steps` blocks of BH rows.

    `partial` is (splits, k² + 1, channels); its last row is the sum of the gradient.
    """
    channel = tl.program_id(0) * BC + tl.arange(0, BC)[None, :]
    i, split = tl.program_id(1), tl.program_id(2)
    sums, total = (), tl.zeros((BH, BC), tl.float32)
    for _ in tl.static_range(K):
        sums = sums + (tl.zeros((BH, BC), tl.float32),)
    for step in range(steps):
        row = (split * steps + step).to(tl.int64) * BH + tl.arange(0, BH)[:, None]
        image, y = row // height, (row % height).to(tl.int32)
        inside = (image < images) & (channel < channels)
        at_y = y + (i - K // 2) * dilation
        reached = inside & (at_y >= 0) & (at_y < height)
        line = x + image * x_b + at_y.to(tl.int64) * x_h + channel
        for tile in range(tl.cdiv(width, TW * dilation) * dilation):
            left = first_column(tile, dilation, TW) + tl.zeros((BH, 1), tl.int32)
            slopes = ()
            for t in tl.static_range(TW):
                at_x = left + t * dilation
                at = (row * width + at_x) * channels + channel
                slope = tl.load(gradient + at, inside & (at_x < width), 0.0).to(tl.float32)
                slopes = slopes + (slope,)
                total += slope
            for column in tl.static_range(TW + K - 1):
                at_x = left + (column - K // 2) * dilation
                value = tl.load(line + at_x * x_w, reached & (at_x >= 0) & (at_x < width), 0.0)
                value = value.to(tl.float32)
                added = ()
                for j in tl.static_range(K):
                    if (column >= j) and (column < j + TW):
                        added = added + (sums[j] + value * slopes[column - j],)
                    else:
                        added = added + (sums[j],)
                sums = added
    column = tl.program_id(0) * BC + tl.arange(0, BC)
    into = partial + split * (K * K + 1) * channels + column
    for j in tl.static_range(K):
        tl.store(into + (i * K + j) * channels, tl.sum(sums[j], 0), column < channels)
    if i == 0:
        tl.store(into + K * K * channels, tl.sum(total, 0), column < channels)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    residual: bool,
    activation: str,
    dilation: int,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The result and what the activation was applied to, the latter empty unless kept."""
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    kept = torch.empty_like(out) if keep else None
    opened = None if gate is None else aligned(gate)
    _convolve(
        aligned(x), taps(weight), bias, opened, out, kept, dilation,
        RESIDUAL=residual, ACTIVATION=ACTIVATIONS[activation], FLIP=False, K=weight.shape[-1],
    )  # fmt: skip
    return out, x.new_empty(0) if kept is None else kept


def backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    gate: Tensor | None,
    kept: Tensor,
    residual: bool,
    activation: str,
    dilation: int,
    needed: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and gate, empty where none is needed."""
    gradient = gradient.contiguous()
    d_gate = None
    if kept.numel():
        gradient, d_gate = _epilogue_backward(gradient, kept, gate, activation)
    d_x, d_weight, d_bias = x.new_empty(0), weight.new_empty(0), weight.new_empty(0)
    if needed[0]:
        d_x = input_gradient(gradient, weight, x.dtype, dilation, residual)
    if needed[1] or needed[2]:
        d_weight, d_bias = weight_gradient(gradient, aligned(x), weight, dilation)
    found = (d_x, d_weight, d_bias, d_gate if d_gate is not None else x.new_empty(0))
    made = zip(found, needed, strict=True)
    d_x, d_weight, d_bias, d_gate = (one if need else one.new_empty(0) for one, need in made)
    return d_x, d_weight, d_bias, d_gate


def input_gradient(
    gradient: Tensor, weight: Tensor, dtype: torch.dtype, dilation: int, residual: bool = False
) -> Tensor:
    """The gradient of the input from a contiguous gradient of the convolution's result."""
    d_x = torch.empty_like(gradient, dtype=dtype)
    _convolve(
        gradient, taps(weight), None, None, d_x, None, dilation,
        RESIDUAL=residual, ACTIVATION=0, FLIP=True, K=weight.shape[-1],
    )  # fmt: skip
    return d_x


def weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, dilation: int
) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias from a contiguous gradient of the convolution's result.

    Summed in an order that depends on the shape alone.
    """
    images, height, width, channels = x.shape
    size = weight.shape[-1]
    tile = sized("depthwise_convolution.weight", size, channels)
    row_blocks = launch.cdiv(images * height, tile.sizes["BH"])
    channel_blocks = launch.cdiv(channels, tile.sizes["BC"])
    steps = launch.cdiv(row_blocks, max(PROGRAMS // (channel_blocks * size), 1))
    splits = launch.cdiv(row_blocks, steps)
    partial = torch.empty((splits, size * size + 1, channels), dtype=torch.float32, device=x.device)
    numbers = (images, height, width, channels, dilation, steps, *x.stride()[:3])
    grid = (channel_blocks, size, splits)
    launch.run(weight_kernel, grid, gradient, x, partial, *numbers, blocks=tile, K=size)
    total = partial.sum(0).to(weight.dtype)
    return total[:-1].t().reshape(weight.shape), total[-1].clone()


def taps(weight: Tensor) -> Tensor:
    """The filters as (k², channels), so that a row of channels is read at once."""
    return weight.flatten(1).t().contiguous()


def aligned(x: Tensor) -> Tensor:
    """`x` itself, strided as it may be, unless rows of channels begin at addresses too odd."""
    wide = all(stride % 8 == 0 for stride in x.stride()[:3]) or x.shape[-1] % 8 != 0
    return x if wide and x.stride(-1) == 1 else x.contiguous()


def sized(kernel: str, size: int, channels: int) -> Blocks:
    """The blocks of a kernel for filters of a size, narrow ones if wide ones cover no better."""
    width = "wide" if channels % 64 == 0 else "narrow"
    return blocks(f"{kernel}.{size}.{width}")


def tiles(x: Tensor, dilation: int, tile: Blocks) -> int:
    """Programs that cover a map's columns and channels."""
    columns = launch.cdiv(x.shape[2], tile.sizes["TW"] * dilation) * dilation
    return columns * launch.cdiv(x.shape[3], tile.sizes["BC"])


def pointwise_grid(x: Tensor, tile: Blocks) -> tuple[int, int]:
    """Programs that cover a map's positions and its channels."""
    channels = x.shape[-1]
    pixels = x.numel() // channels
    return launch.cdiv(pixels, tile.sizes["BP"]), launch.cdiv(channels, tile.sizes["BC"])


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    out: Tensor,
    kept: Tensor | None,
    dilation: int,
    **constants: int,
) -> None:
    images, height, width, channels = x.shape
    tile = sized("depthwise_convolution.forward", constants["K"], channels)
    grid = (launch.cdiv(images * height, tile.sizes["BH"]) * tiles(x, dilation, tile),)
    strides = (*x.stride()[:3], *(x if gate is None else gate).stride()[:3])
    tensors = (x, weight, bias, gate, out, kept)
    sizes = (images, height, width, channels, dilation, constants["K"])
    launch.run(forward_kernel, grid, *tensors, *sizes, *strides, blocks=tile, **constants)


def _epilogue_backward(
    gradient: Tensor, kept: Tensor, gate: Tensor | None, activation: str
) -> tuple[Tensor, Tensor | None]:
    """The gradients of what the activation was applied to, and of the gate."""
    channels, width = gradient.shape[-1], gradient.shape[2]
    d_kept, d_gate, pitch = torch.empty_like(kept), None, channels
    if gate is not None:
        height = gradient.shape[1]
        pitch = gate.stride(2)
        if gate.stride() != (height * width * pitch, width * pitch, pitch, 1):
            gate, pitch = gate.contiguous(), channels
        d_gate = torch.empty_like(gradient, dtype=gate.dtype)
    pixels = gradient.numel() // channels
    tile = blocks("depthwise_convolution.epilogue_backward")
    launch.run(
        epilogue_backward_kernel, pointwise_grid(gradient, tile), gradient, kept, gate, d_kept,
        d_gate, pixels, channels, pitch, blocks=tile, ACTIVATION=ACTIVATIONS[activation],
    )  # fmt: skip
    return d_kept, d_gate
