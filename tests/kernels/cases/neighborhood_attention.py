"""Cases of neighbourhood attention."""

import torch
from tests.kernels.harness import Case
from torch import Tensor

from foveal.kernels.neighborhood_attention import neighborhood_attention


def formula(size: tuple[int, int], kernel: int):
    """Position by position."""

    def literal(q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor) -> Tensor:
        s, d = kernel, q.shape[4]
        rows = []
        for y in range(size[0]):
            top = min(max(y - s // 2, 0), max(size[0], s) - s)
            row = []
            for x in range(size[1]):
                left = min(max(x - s // 2, 0), max(size[1], s) - s)
                logits = torch.stack(
                    [
                        (q[:, y, x] * k[:, i, j]).sum(-1) / d**0.5
                        + position_bias[:, i - y + s - 1, j - x + s - 1]
                        for i in range(top, top + s)
                        for j in range(left, left + s)
                    ],
                    -1,
                )
                near = v[:, top : top + s, left : left + s].flatten(1, 2)
                row.append(torch.einsum("bhn,bnhd->bhd", logits.softmax(-1), near))
            rows.append(torch.stack(row, 1))
        return torch.stack(rows, 1)

    return literal


def case(
    name: str,
    kernel: int,
    size: tuple[int, int],
    *,
    b: int = 1,
    heads: int = 1,
    d: int = 8,
    slow=False,
    registered=False,
) -> Case:
    padded = [max(n, kernel) for n in size]
    return Case(
        f"neighborhood_attention-{name}",
        lambda q, k, v, bias, backend: neighborhood_attention(
            q, k, v, bias, size, kernel, backend=backend
        ),
        formula(size, kernel),
        [(b, *padded, heads, d)] * 3 + [(heads, 2 * kernel - 1, 2 * kernel - 1)],
        exact=(3,),
        operator=(
            lambda q, k, v, bias: (
                torch.ops.foveal.neighborhood_attention_triton.default,
                (q, k, v, bias, size, kernel),
            )
        )
        if registered
        else None,
        slow=slow,
    )


CASES = [
    case("3-two-tiles", 3, (5, 11), heads=2, d=24),
    case("5-a-tile-in-the-middle", 5, (5, 19), registered=True),
    case("5-map-of-the-kernel", 5, (5, 5), b=2, d=39),
    case("5-map-smaller-than-the-kernel", 5, (2, 7), b=2, heads=2),
    case("3-one-row", 3, (1, 9), d=32),
    case("7", 7, (13, 10), b=2, slow=True),
    case("9-of-128-channels", 9, (10, 9), d=128, slow=True),
    case("13", 13, (14, 17), slow=True),
    case("13-map-smaller-than-the-kernel", 13, (9, 14), slow=True),
]
