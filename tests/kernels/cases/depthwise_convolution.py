"""Cases of the depthwise convolution."""

import torch
from tests.kernels.harness import Case
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.depthwise_convolution import depthwise_convolution

Options = dict[str, object]


def formula(bias: bool, gate: bool, options: Options):
    """A sum over the taps of shifted maps, each tap looked up by its place."""

    def literal(x: Tensor, weight: Tensor, *others: Tensor) -> Tensor:
        rest = list(others)
        _, height, width, _ = x.shape
        size, step = weight.shape[-1], int(str(options.get("dilation", 1)))
        reach = size // 2 * step
        padded = F.pad(x, (0, 0, reach, reach, reach, reach))
        out = torch.zeros_like(x)
        for i in range(size):
            for j in range(size):
                rows = slice(i * step, i * step + height)
                columns = slice(j * step, j * step + width)
                out = out + weight[:, 0, i, j] * padded[:, rows, columns]
        if bias:
            out = out + rest.pop(0)
        if options.get("residual"):
            out = out + x
        if options.get("activation") == "gelu":
            out = out * 0.5 * (1 + torch.erf(out / 2**0.5))
        if options.get("activation") == "silu":
            out = out / (1 + torch.exp(-out))
        return out * rest.pop(0) if gate else out

    return literal


def case(
    name: str,
    size: int,
    shape: tuple[int, ...],
    *,
    bias: bool = True,
    gate: bool = False,
    slow: bool = False,
    **options: object,
) -> Case:
    def split(others: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor | None]:
        rest = list(others)
        return rest.pop(0) if bias else None, rest.pop(0) if gate else None

    def run(x: Tensor, weight: Tensor, *others: Tensor, backend: str) -> Tensor:
        b, g = split(others)
        return depthwise_convolution(x, weight, b, gate=g, **options, backend=backend)  # pyright: ignore[reportArgumentType]

    def operator(x: Tensor, weight: Tensor, *others: Tensor):
        rest = (options.get("residual", False), options.get("activation", "none"))
        args = (x, weight, *split(others), *rest, options.get("dilation", 1), True)
        return torch.ops.foveal.depthwise_convolution_triton.default, args

    channels = shape[-1]
    shapes = [shape, (channels, 1, size, size)]
    shapes += [(channels,)] * bias + [shape] * gate
    return Case(
        f"depthwise_convolution-{name}",
        run,
        formula(bias, gate, options),
        shapes,
        operator=operator,
        slow=slow,
        inference=["onednn"] if "activation" in options else [],
    )


CASES = [
    case("3-gelu-gate", 3, (2, 5, 7, 24), gate=True, activation="gelu"),
    case("5-plain", 5, (1, 3, 6, 39), bias=False),
    case("3-residual-gelu", 3, (2, 4, 3, 13), residual=True, activation="gelu"),
    case("7-silu-dilated", 7, (1, 5, 8, 8), activation="silu", dilation=2),
    case("9-smaller-map", 9, (2, 4, 1, 8), residual=True),
    case("1-gate", 1, (1, 1, 5, 64), gate=True),
    case("13-gelu", 13, (1, 6, 5, 8), activation="gelu", slow=True),
    case("11-dilated", 11, (1, 1, 9, 16), bias=False, dilation=3, slow=True),
    case("5-rows-of-many-images", 5, (9, 5, 4, 70), activation="gelu", slow=True),
]
