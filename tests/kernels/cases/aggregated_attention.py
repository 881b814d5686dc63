"""Cases of aggregated attention."""

from math import isqrt, log
from unittest import mock

import torch
from tests.kernels.harness import Case
from torch import Tensor

from foveal.kernels.aggregated_attention import AttentionTerms, aggregated_attention, fused
from foveal.kernels.position_bias import BiasMLP, LogSpacedBias

SIDE = 5


def run(pretrain_cells: int | None, dense: bool):
    def attention(*tensors: Tensor, backend: str) -> Tensor:
        terms, mlp = AttentionTerms(*tensors[5:10]), BiasMLP(*tensors[10:])
        bias = LogSpacedBias(mlp, SIDE, pretrain_cells)
        query, key, value, pooled_key, pooled_value = tensors[:5]
        with mock.patch.object(fused, "DENSE_BYTES", 2**20 if dense else 0):
            return aggregated_attention(
                query, key, value, pooled_key, pooled_value, terms, bias, backend=backend
            )

    return attention


def formula(pretrain_cells: int | None):
    """Every window gathered pixel by pixel, one softmax over the joined logits."""

    def literal(*tensors: Tensor) -> Tensor:
        query, key, value, pooled_key, pooled_value, embedding, scale, local, tokens, plus = (
            tensors[:10]
        )
        bias = LogSpacedBias(BiasMLP(*tensors[10:]), SIDE, pretrain_cells)
        _, height, width, _, _ = query.shape
        position = bias.at((height, width), pooled_key.shape[1:3]).of_rows(0, height)
        q, k, pooled_k = (x / x.norm(dim=-1, keepdim=True) for x in (query, key, pooled_key))
        rows = []
        for y in range(height):
            for x in range(width):
                cells = _window(y, x, height, width, isqrt(local.shape[-1]))
                at = [cell for cell, _, _ in cells]
                ys, xs = [v for _, v, _ in cells], [u for _, _, u in cells]
                seen = len(cells) + pooled_k.shape[1] * pooled_k.shape[2]
                scaled = (q[:, y, x] + embedding) * scale[:, None] * log(seen)
                near = torch.einsum("bnd,bjnd->bnj", scaled, k[:, ys, xs]) + local[:, at]
                far = torch.einsum("bnd,bpqnd->bnpq", scaled, pooled_k) + position[:, y, x]
                weights = torch.cat([near, far.flatten(2)], -1).softmax(-1)
                positional = torch.einsum("bnd,ndj->bnj", q[:, y, x], tokens[..., at])
                mine = weights[..., : len(at)] + positional + plus[:, at]
                rows.append(
                    torch.einsum("bnj,bjnd->bnd", mine, value[:, ys, xs])
                    + torch.einsum(
                        "bnp,bpnd->bnd", weights[..., len(at) :], pooled_value.flatten(1, 2)
                    )
                )
        return torch.stack(rows, 1).unflatten(1, (height, width))

    return literal


def _window(y: int, x: int, height: int, width: int, side: int) -> list[tuple[int, int, int]]:
    """Number, row and column of the window's cells inside the map."""
    return [
        (cell, v, u)
        for cell in range(side**2)
        if 0 <= (v := y + cell // side - side // 2) < height
        and 0 <= (u := x + cell % side - side // 2) < width
    ]


def prepare(tensors: list[Tensor]) -> list[Tensor]:
    """Scales are positive."""
    tensors[6] = tensors[6].abs() + 0.5
    return tensors


def operator(pretrain_cells: int | None, dense: bool):
    def arguments(*tensors: Tensor) -> tuple:
        bias = LogSpacedBias(BiasMLP(*tensors[10:]), SIDE, pretrain_cells)
        size, cells = tensors[0].shape[1:3], tensors[3].shape[1:3]
        position = bias.at(size, cells)
        given = (position.of_rows(0, size[0]), None, None) if dense else tuple(position)
        # A leaf of its own: an operator is checked with its own arguments.
        given = (given[0].detach().requires_grad_(), *given[1:])
        return torch.ops.foveal.aggregated_attention_triton.default, (*tensors[:10], *given)

    return arguments


def case(
    name: str,
    size: tuple[int, int, int],
    cells: tuple[int, int],
    heads: tuple[int, int],
    *,
    window: int = 3,
    pretrain_cells: int | None = None,
    dense: bool = True,
    checked: bool = False,
    slow: bool = False,
) -> Case:
    """`size` is (b, h, w), `heads` their number and channels."""
    full, pooled, (n, d), k2 = (*size, *heads), (size[0], *cells, *heads), heads, window**2
    terms = ((n, d), (n,), (n, k2), (n, d, k2), (n, k2))
    return Case(
        f"aggregated_attention-{name}",
        run(pretrain_cells, dense),
        formula(pretrain_cells),
        (full, full, full, pooled, pooled, *terms, (8, 2), (8,), (n, 8), (n,)),
        exact=range(5, 14),
        prepare=prepare,
        operator=operator(pretrain_cells, dense) if checked else None,
        slow=slow,
    )


CASES = [
    case("ragged", (2, 5, 7), (2, 3), (2, 24)),
    case("table", (1, 4, 6), (2, 3), (1, 8), dense=False, checked=True),
    case("one row, interpolated", (1, 1, 5), (1, 2), (1, 24), pretrain_cells=2, checked=True),
    case("table, half pixels", (2, 7, 3), (3, 2), (1, 8), dense=False, slow=True),
    case("many pooled cells", (2, 9, 9), (9, 9), (2, 24), slow=True),
    case("many in a table", (1, 9, 10), (9, 10), (1, 24), dense=False, slow=True),
    case("39 channels", (1, 3, 4), (2, 2), (1, 39), slow=True),
    case("one column", (2, 6, 1), (3, 1), (2, 16), slow=True),
    case("one cell", (1, 1, 1), (1, 1), (2, 3), slow=True),
    case("window of 5", (1, 5, 4), (2, 2), (1, 8), window=5, slow=True),
    case("more cells than pixels", (2, 2, 3), (4, 4), (2, 24), slow=True),
]
