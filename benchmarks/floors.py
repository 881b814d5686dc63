"""The least time an operator can take: bytes over copy speed, or work over arithmetic speed.

Bytes are what must be read and written once, intermediate results not among them. Work is counted
in floating-point operations, two for a multiplication with an addition; `matrix` for what matrix
units can do, `vector` for what they cannot. Exponentials, roots and normalisations are not counted.
All ceilings are measured, in the same process as what is compared with them.
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.timing import Effort, milliseconds_of


@dataclass(frozen=True)
class Ceilings:
    """What the device can do at most, measured.

    Attributes:
        bytes_per_second: read and written together, copying.
        matrix_flops: per second, of a large matrix product in the dtype that is timed.
        vector_flops: per second, of one in full float32, for want of a better measure.
    """

    bytes_per_second: float
    matrix_flops: float
    vector_flops: float


@dataclass(frozen=True)
class Cost:
    """What one call must move and compute at the least.

    Attributes:
        bytes: read once and written once.
        matrix, vector: floating-point operations.
    """

    bytes: int
    matrix: int = 0
    vector: int = 0

    def milliseconds(self, ceilings: Ceilings) -> float:
        """The floor: the slowest of the three, all going on at once."""
        seconds = (
            self.bytes / ceilings.bytes_per_second,
            self.matrix / ceilings.matrix_flops,
            self.vector / ceilings.vector_flops,
        )
        return 1e3 * max(seconds)


def aggregated_attention(
    b: int, h: int, w: int, heads: int, d: int, pooled: int, itemsize: int, window: int = 3
) -> Cost:
    """TransNeXt's: q, k, v in and y out, pooled keys and values, a bias per query and cell."""
    positions, c, cells = b * h * w, heads * d, window**2
    numbers = 4 * positions * c + 2 * b * pooled * c + heads * h * w * pooled
    # Window: logits, positional weights and the sum. Pooled map: logits and the sum.
    return Cost(numbers * itemsize, 4 * positions * c * pooled, 6 * positions * c * cells)


def neighborhood_attention(
    b: int, h: int, w: int, heads: int, d: int, kernel: int, itemsize: int
) -> Cost:
    """DAT++'s: q, k, v in and y out; dense over tiles, matrix units do (2·8 / kernel)² the work."""
    positions, c = b * h * w, heads * d
    numbers = 4 * positions * c + heads * (2 * kernel - 1) ** 2
    return Cost(numbers * itemsize, 4 * positions * c * kernel**2)


def deformable_attention(
    b: int, h: int, w: int, heads: int, d: int, keys: int, table: int, itemsize: int
) -> Cost:
    """DAT's: q in and y out, keys, values, positions, the table; its look-up mixes four cells."""
    positions, c = b * h * w, heads * d
    numbers = 2 * positions * c + 2 * b * keys * c + 2 * b * keys * heads + table
    return Cost(numbers * itemsize, 4 * positions * c * keys, 8 * positions * heads * keys)


def depthwise_convolution(
    b: int, h: int, w: int, c: int, kernel: int, itemsize: int, *, gated: bool = False
) -> Cost:
    """One map in, one out, and a gate's in between; what is done to each number is free."""
    positions = b * h * w
    numbers = (2 + gated) * positions * c + c * kernel**2
    return Cost(numbers * itemsize, 0, 2 * positions * c * kernel**2)


def focal_aggregation(
    b: int, h: int, w: int, c: int, kernels: tuple[int, ...], itemsize: int
) -> Cost:
    """FocalNet's, a kernel per level, between which the context and the sum pass through memory.

    The first level reads the context and writes its own, the next writes the sum too, the others
    also read it; the last one's context is only averaged and never written.
    """
    maps = max(2, 4 * len(kernels) - 4)
    positions = b * h * w
    numbers = positions * (maps * c + len(kernels) + 1)
    return Cost(numbers * itemsize, 0, 2 * positions * c * sum(k**2 for k in kernels))


def gated_product(b: int, h: int, w: int, c: int, ratio: int, itemsize: int) -> Cost:
    """Features of r·c channels and a gate of c in, r·c out."""
    return Cost(b * h * w * c * (2 * ratio + 1) * itemsize, 0, b * h * w * c * ratio)


def measure(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """The ceilings, each the median of several runs."""
    on_gpu = device.type == "cuda"
    source = torch.randn(2**28 if on_gpu else 2**25, device=device)
    target = torch.empty_like(source)
    copy = _median(lambda: target.copy_(source), device)
    side = 8192 if on_gpu else 1024
    tf32, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, False
    matrix, vector = (
        2 * side**3 / _median(lambda x=x: x @ x, device)
        for x in (torch.randn(side, side, device=device, dtype=d) for d in (dtype, torch.float32))
    )
    torch.backends.cuda.matmul.allow_tf32 = tf32
    return Ceilings(2 * source.numel() * source.element_size() / copy, matrix, vector)


def _median(call: Callable[[], object], device: torch.device) -> float:
    """Seconds."""
    for _ in range(Effort.warm_up):
        call()
    return statistics.median(milliseconds_of(call, [()], 1, device) for _ in range(15)) / 1e3
