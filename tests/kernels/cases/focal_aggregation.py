"""Cases of focal aggregation."""

import torch
from tests.kernels.harness import Case
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.focal_aggregation import focal_aggregation


def formula(dilation: int, normalize: bool):
    """Shifted maps for the convolutions, one gate after the other."""

    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / 2**0.5))

    def literal(context: Tensor, gates: Tensor, *weights: Tensor) -> Tensor:
        _, height, width, _ = context.shape
        out = torch.zeros_like(context)
        for level, weight in enumerate(weights):
            size = weight.shape[-1]
            reach = size // 2 * dilation
            padded = F.pad(context, (0, 0, reach, reach, reach, reach))
            context = torch.zeros_like(context)
            for i in range(size):
                for j in range(size):
                    rows = slice(i * dilation, i * dilation + height)
                    columns = slice(j * dilation, j * dilation + width)
                    context = context + weight[:, 0, i, j] * padded[:, rows, columns]
            context = gelu(context)
            out = out + gates[..., level, None] * context
        mean = context.sum((1, 2), keepdim=True) / (height * width)
        out = out + gates[..., -1, None] * gelu(mean)
        return out / (len(weights) + 1) if normalize else out

    return literal


def case(
    name: str,
    shape: tuple[int, int, int, int],
    kernels: tuple[int, ...],
    *,
    dilation: int = 1,
    normalize: bool = False,
    slow: bool = False,
) -> Case:
    def run(context: Tensor, gates: Tensor, *weights: Tensor, backend: str) -> Tensor:
        options = {"dilation": dilation, "normalize": normalize}
        return focal_aggregation(context, gates, *weights, **options, backend=backend)

    channels = shape[-1]
    return Case(
        f"focal_aggregation-{name}",
        run,
        formula(dilation, normalize),
        [shape, (*shape[:3], len(kernels) + 1), *((channels, 1, k, k) for k in kernels)],
        operator=lambda context, gates, *weights: (
            torch.ops.foveal.focal_aggregation_triton.default,
            (context, gates, list(weights), dilation, normalize, True),
        ),
        slow=slow,
        inference=["onednn"],
    )


CASES = [
    case("3-5", (2, 5, 7, 24), (3, 5)),
    case("one-level", (2, 3, 4, 13), (3,), normalize=True),
    case("3-5-7-one-row", (2, 1, 5, 8), (3, 5, 7), normalize=True),
    case("3-5-dilated", (1, 6, 5, 39), (3, 5), dilation=2, slow=True),
    case("many-rows", (2, 37, 3, 8), (3, 5), slow=True),
    case("5-7-9-11", (1, 4, 6, 64), (5, 7, 9, 11), slow=True),
]
