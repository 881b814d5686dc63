"""Focal aggregation in Triton: one depthwise kernel a level, the gated sum in its epilogue.

The first level only writes its context, which the second reads anyhow and adds to the sum together
with its own; the last writes no context, only its sums for the mean. Backward, a level's kernel is
the adjoint of the next level's convolution, and all that is pointwise hangs on its result.
"""

# Triton does not unpack tuples.
# ruff: noqa: RUF005

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveal.kernels import launch
from foveal.kernels.depthwise_convolution.triton import (
    aligned,
    convolved,
    first_column,
    input_gradient,
    pointwise_grid,
    sized,
    taps,
    tiles,
    value_and_slope,
    weight_gradient,
)
from foveal.kernels.tuning import blocks

GELU = tl.constexpr(1)


@triton.jit
def level_kernel(
    x, weight, gates, out, kept, total, sums, images, height, width, channels, dilation, size, x_b,
    x_h, x_w, pitch, level, levels,
    FIRST: tl.constexpr, SECOND: tl.constexpr, K: tl.constexpr,
    TW: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """GELU of a convolution; into `total` goes its gated sum with what is there already.

    At the SECOND level that is the first's context, the convolution's own input. The rows of an
    image are numbered up to `pitch`, so that a program's `sums` belong to one image.
    """
    program = tl.program_id(0)
    channel_blocks = tl.cdiv(channels, BC)
    columns = tl.cdiv(width, TW * dilation) * dilation
    channel = (program % channel_blocks) * BC + tl.arange(0, BC)[None, :]
    program //= channel_blocks
    left = first_column(program % columns, dilation, TW) + tl.zeros((BH, 1), tl.int32)
    row = (program // columns).to(tl.int64) * BH + tl.arange(0, BH)[:, None]
    image, y = row // pitch, (row % pitch).to(tl.int32)
    inside = (image < images) & (y < height) & (channel < channels)
    line = x + image * x_b + channel
    convolutions = convolved(
        line, weight, y, left, inside, channel, height, width, channels, x_h, x_w, dilation,
        size, False, K, TW, BH, BC,
    )  # fmt: skip
    summed = tl.zeros((BH, BC), tl.float32)
    for t in tl.static_range(TW):
        at_x = left + t * dilation
        valid = inside & (at_x < width)
        pixel = (image * height + y) * width + at_x
        at = pixel * channels + channel
        if kept is not None:
            tl.store(kept + at, convolutions[t], valid)
        value, _ = value_and_slope(convolutions[t], GELU)
        if out is not None:
            tl.store(out + at, value, valid)
        if sums is not None:
            summed += tl.where(valid, value, 0.0)
        if total is not None:
            there = (image < images) & (y < height) & (at_x < width)
            opened = gates + pixel * levels + level
            value *= tl.load(opened, there, 0.0).to(tl.float32)
            if SECOND:
                before = tl.load(line + y.to(tl.int64) * x_h + at_x * x_w, valid, 0.0).to(
                    tl.float32
                )
                value += before * tl.load(opened - 1, there, 0.0).to(tl.float32)
            elif not FIRST:
                value += tl.load(total + at, valid, 0.0).to(tl.float32)
            tl.store(total + at, value, valid)
    if sums is not None:
        column = (tl.program_id(0) % channel_blocks) * BC + tl.arange(0, BC)
        into = sums + program.to(tl.int64) * channels + column
        tl.store(into, tl.sum(summed, 0), column < channels)


@triton.jit
def global_kernel(
    total, gates, mean, pixels, area, channels, level, levels, scale,
    BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """total = scale · (total + gate · GELU(mean)), in place."""
    pixel = tl.program_id(0).to(tl.int64) * BP + tl.arange(0, BP)[:, None]
    channel = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    valid = (pixel < pixels) & (channel < channels)
    value, _ = value_and_slope(tl.load(mean + pixel // area * channels + channel, valid, 0.0), GELU)
    value *= tl.load(gates + pixel * levels + level, pixel < pixels, 0.0).to(tl.float32)
    at = total + pixel * channels + channel
    tl.store(at, (tl.load(at, valid, 0.0).to(tl.float32) + value) * scale, valid)


@triton.jit
def global_backward_kernel(
    gradient, gates, mean, d_gate, partial, pixels, area, channels, parts, level, levels, scale,
    STEPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """The gradient of the last gate, and sums for that of GELU(mean); a program stays in an image.

    `d_gate` is (channel blocks, pixels), `partial` (images · parts, channels).
    """
    program = tl.program_id(0)
    image, part = (program // parts).to(tl.int64), program % parts
    channel = tl.program_id(1) * BC + tl.arange(0, BC)[None, :]
    exists = channel < channels
    value, _ = value_and_slope(tl.load(mean + image * channels + channel, exists, 0.0), GELU)
    summed = tl.zeros((BP, BC), tl.float32)
    for step in range(STEPS):
        within = (part * STEPS + step) * BP + tl.arange(0, BP)[:, None]
        pixel = image * area + within
        inside = within < area
        dy = tl.load(gradient + pixel * channels + channel, inside & exists, 0.0).to(tl.float32)
        dy *= scale
        into = d_gate + tl.program_id(1).to(tl.int64) * pixels + pixel
        tl.store(into, tl.sum(dy * value, 1, keep_dims=True), inside)
        summed += dy * tl.load(gates + pixel * levels + level, inside, 0.0).to(tl.float32)
    column = tl.program_id(1) * BC + tl.arange(0, BC)
    into = partial + program.to(tl.int64) * channels + column
    tl.store(into, tl.sum(summed, 0), column < channels)


@triton.jit
def level_backward_kernel(
    gradient, after, weight, gates, kept, d_kept, out, d_gate, images, height, width, channels,
    dilation, size, level, levels, scale,
    LAST: tl.constexpr, K: tl.constexpr, TW: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradients of a level's gate and of what its GELU is applied to; its context again for `out`.

    `after` is the gradient of the next level's convolution, whose adjoint takes it to this level's
    context; at the LAST level it is (images, channels), the same for every position.
    """
    program = tl.program_id(0)
    channel_blocks = tl.cdiv(channels, BC)
    columns = tl.cdiv(width, TW * dilation) * dilation
    channel_block = program % channel_blocks
    channel = channel_block * BC + tl.arange(0, BC)[None, :]
    program //= channel_blocks
    left = first_column(program % columns, dilation, TW) + tl.zeros((BH, 1), tl.int32)
    row = (program // columns).to(tl.int64) * BH + tl.arange(0, BH)[:, None]
    image, y = row // height, (row % height).to(tl.int32)
    inside = (image < images) & (channel < channels)
    if LAST:
        shared = tl.load(after + image * channels + channel, inside, 0.0)
        slopes = ()
        for _ in tl.static_range(TW):
            slopes = slopes + (shared,)
    else:
        slopes = convolved(
            after + image * height * width * channels + channel, weight, y, left, inside, channel,
            height, width, channels, width * channels, channels, dilation, size, True, K, TW,
            BH, BC,
        )  # fmt: skip
    for t in tl.static_range(TW):
        at_x = left + t * dilation
        valid = inside & (at_x < width)
        there = (image < images) & (at_x < width)
        pixel = row * width + at_x
        at = pixel * channels + channel
        value, slope = value_and_slope(tl.load(kept + at, valid, 0.0).to(tl.float32), GELU)
        if out is not None:
            tl.store(out + at, value, valid)
        dy = tl.load(gradient + at, valid, 0.0).to(tl.float32) * scale
        into = d_gate + channel_block.to(tl.int64) * (images * height * width) + pixel
        tl.store(into, tl.sum(dy * value, 1, keep_dims=True), there)
        opened = tl.load(gates + pixel * levels + level, there, 0.0).to(tl.float32)
        tl.store(d_kept + at, (slopes[t] + dy * opened) * slope, valid)


def forward(
    context: Tensor,
    gates: Tensor,
    weights: Sequence[Tensor],
    dilation: int,
    normalize: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The result; what the activations are applied to (L b h w c), empty unless kept; the mean."""
    images, height, width, channels = context.shape
    kind = {"dtype": context.dtype, "device": context.device}
    last = len(weights) - 1
    kept = torch.empty((len(weights), *context.shape) if keep else 0, **kind)
    total = torch.empty(context.shape, **kind)
    x, gates, mean = aligned(context), gates.contiguous(), None
    for level, weight in enumerate(weights):
        tile = sized("focal_aggregation.level", weight.shape[-1], channels)
        rows = tile.sizes["BH"]
        # A program's sums are for one image: a new image begins with a new program.
        pitch = launch.cdiv(height, rows) * rows if level == last else height
        programs = launch.cdiv(images * pitch, rows) * tiles(x, dilation, tile)
        out = sums = None
        if level == last:
            parts = programs // launch.cdiv(channels, tile.sizes["BC"])
            sums = torch.empty((parts, channels), dtype=torch.float32, device=x.device)
        else:
            out = torch.empty(context.shape, **kind)
        tensors = (
            x, taps(weight), gates, out, kept[level] if keep else None,
            total if level or not last else None, sums,
        )  # fmt: skip
        size = weight.shape[-1]
        sizes = (images, height, width, channels, dilation, size, *x.stride()[:3])
        constants = {"FIRST": level == 0, "SECOND": level == 1, "K": size}
        numbers = (*sizes, pitch, level, last + 2)
        launch.run(level_kernel, (programs,), *tensors, *numbers, blocks=tile, **constants)
        if sums is not None:
            mean = sums.view(images, -1, channels).sum(1) / (height * width)
        elif out is not None:
            x = out
    assert mean is not None
    tile = blocks("focal_aggregation.global")
    grid = pointwise_grid(total, tile)
    numbers = (images * height * width, height * width, channels, last + 1, last + 2)
    launch.run(
        global_kernel, grid, total, gates, mean, *numbers,
        _scale(normalize, weights), blocks=tile,
    )  # fmt: skip
    return total, kept, mean


def backward(
    gradient: Tensor,
    context: Tensor,
    gates: Tensor,
    weights: Sequence[Tensor],
    kept: Tensor,
    mean: Tensor,
    dilation: int,
    normalize: bool,
) -> list[Tensor]:
    """The gradients of context, gates and weights."""
    gradient, gates, scale = gradient.contiguous(), gates.contiguous(), _scale(normalize, weights)
    d_mean, d_last = _global_backward(gradient, gates, mean, scale)
    d_gates, d_weights = [d_last], []
    after, following, context = d_mean, None, aligned(context)
    for level in reversed(range(len(weights))):
        found, x, d_gate = _level_backward(
            gradient, after, following, gates, kept[level], level, dilation, scale
        )
        d_gates.insert(0, d_gate)
        if following is not None:
            d_weights.insert(0, weight_gradient(after, x, following, dilation)[0])
        after, following = found, weights[level]
    assert following is not None
    d_weights.insert(0, weight_gradient(after, context, following, dilation)[0])
    d_context = input_gradient(after, following, context.dtype, dilation)
    return [d_context, torch.stack(d_gates, -1).view(gates.shape).to(gates.dtype), *d_weights]


def _level_backward(
    gradient: Tensor,
    after: Tensor,
    following: Tensor | None,
    gates: Tensor,
    kept: Tensor,
    level: int,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of what the level's GELU is applied to, its context, its gate's gradient."""
    images, height, width, channels = kept.shape
    size = 1 if following is None else following.shape[-1]
    tile = sized("focal_aggregation.level_backward", size, channels)
    programs = launch.cdiv(images * height, tile.sizes["BH"]) * tiles(kept, dilation, tile)
    channel_blocks = launch.cdiv(channels, tile.sizes["BC"])
    d_gate = torch.empty(
        (channel_blocks, images * height * width), dtype=torch.float32, device=kept.device
    )
    d_kept = torch.empty_like(kept)
    out = None if following is None else torch.empty_like(kept)
    filters = None if following is None else taps(following)
    numbers = (images, height, width, channels, dilation, size, level, gates.shape[-1], scale)
    launch.run(
        level_backward_kernel, (programs,), gradient, after, filters, gates, kept, d_kept, out,
        d_gate, *numbers, blocks=tile, LAST=following is None, K=size,
    )  # fmt: skip
    return d_kept, d_kept if out is None else out, d_gate.sum(0)


def _global_backward(
    gradient: Tensor, gates: Tensor, mean: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """The gradient of the last level's every position through the mean, and the last gate's."""
    images, height, width, channels = gradient.shape
    tile, area, levels = blocks("focal_aggregation.global_backward"), height * width, gates.shape[3]
    parts = launch.cdiv(area, tile.sizes["BP"] * tile.sizes["STEPS"])
    channel_blocks = launch.cdiv(channels, tile.sizes["BC"])
    kind = {"dtype": torch.float32, "device": gradient.device}
    d_gate = torch.empty((channel_blocks, images * area), **kind)
    partial = torch.empty((images * parts, channels), **kind)
    numbers = (images * area, area, channels, parts, levels - 1, levels, scale)
    launch.run(
        global_backward_kernel, (images * parts, channel_blocks), gradient, gates, mean, d_gate,
        partial, *numbers, blocks=tile,
    )  # fmt: skip
    summed = partial.view(images, parts, channels).sum(1)
    return torch.ops.aten.gelu_backward(summed, mean) / area, d_gate.sum(0)


def _scale(normalize: bool, weights: Sequence[Tensor]) -> float:
    return 1 / (len(weights) + 1) if normalize else 1.0
