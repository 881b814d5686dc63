"""Cases of deformable attention."""

from collections.abc import Callable

import torch
from tests.kernels.harness import DEVICE, Case
from torch import Tensor

from foveal.kernels.deformable_attention import deformable_attention

# The bias has kinks where a key is a whole number of cells from a query.
KINK = 1e-3


def grid(h: int, w: int, corner_aligned: bool) -> list[Tensor]:
    """The queries' coordinates: from corner to corner, or unevenly spaced."""
    if corner_aligned:
        axes = [torch.linspace(-1, 1, n) if n > 1 else torch.zeros(1) for n in (h, w)]
    else:
        axes = [torch.linspace(-1, 0.9, n) + 0.1 * torch.linspace(0, 1, n) ** 2 for n in (h, w)]
    return [axis.to(DEVICE) for axis in axes]


def cell(query: Tensor, position: Tensor, cells: int) -> Tensor:
    """Where displacements (b, groups, queries, n) are on an axis of the table."""
    displacement = (query[:, None] - position[:, :, None]) / 2
    return (displacement + 1) / 2 * (cells - 1)


def formula(query_y: Tensor, query_x: Tensor) -> Callable[..., Tensor]:
    def literal(q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor) -> Tensor:
        b, heads, h, w, d = q.shape
        (groups, n), (ht, wt) = positions.shape[1:3], table.shape[1:]
        rows = cell(query_y.double(), positions[..., 0], ht).repeat_interleave(heads // groups, 1)
        columns = cell(query_x.double(), positions[..., 1], wt).repeat_interleave(
            heads // groups, 1
        )
        bias = torch.zeros(b, heads, h, w, n, dtype=q.dtype, device=q.device)
        # Every cell counts by how near it is, up to a distance of one.
        for r in range(ht):
            near_row = (1 - (rows - r).abs()).clamp(min=0)
            for c in range(wt):
                near_column = (1 - (columns - c).abs()).clamp(min=0)
                near = near_row[:, :, :, None] * near_column[:, :, None]
                bias = bias + table[:, r, c, None, None, None] * near
        logits = torch.einsum("bhyxd,bhnd->bhyxn", q, k) / d**0.5 + bias
        return torch.einsum("bhyxn,bhnd->bhyxd", logits.softmax(-1), v)

    return literal


def off_the_kinks(query_y: Tensor, query_x: Tensor, ht: int, wt: int, spread: float):
    """Some positions are off the map if `spread` is large, none is at a kink."""

    def prepare(tensors: list[Tensor]) -> list[Tensor]:
        q, k, v, positions, table = tensors
        positions = spread * positions
        for _ in range(20):
            for axis, (query, cells) in enumerate(((query_y.cpu(), ht), (query_x.cpu(), wt))):
                at = cell(query.double(), positions[..., axis], cells)
                kink = ((at - at.round()).abs() < KINK).any(2) & (cells > 1)
                positions[..., axis] += kink * 0.0137
        return [q, k, v, positions, table]

    return prepare


def case(
    name: str,
    b: int,
    heads: int,
    groups: int,
    h: int,
    w: int,
    n: int,
    d: int,
    table: tuple[int, int] | None = None,
    spread: float = 0.5,
    checked: bool = False,
    slow: bool = False,
) -> Case:
    """Without the table's size, queries are whole cells of it apart."""
    whole = table is None
    ht, wt = table or (2 * h - 1, 2 * w - 1)
    query_y, query_x = grid(h, w, whole)

    def registered(*tensors: Tensor) -> tuple[torch._ops.OpOverload, tuple]:
        operator = torch.ops.foveal.deformable_attention_triton.default
        return operator, (*tensors, query_y, query_x, whole, True)

    def run(
        q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor, backend: str
    ) -> Tensor:
        y, x = query_y.to(positions.dtype), query_x.to(positions.dtype)
        return deformable_attention(
            q, k, v, positions, table, y, x, corner_aligned=whole, backend=backend
        )

    return Case(
        f"deformable_attention-{name}",
        run,
        formula(query_y, query_x),
        [(b, heads, h, w, d), (b, heads, n, d), (b, heads, n, d), (b, groups, n, 2),
         (heads, ht, wt)],
        exact=(3, 4),
        prepare=off_the_kinks(query_y, query_x, ht, wt, spread),
        operator=registered if checked else None,
        slow=slow,
    )  # fmt: skip


CASES = [
    case("whole-steps", 1, 2, 1, 5, 7, 6, 8, checked=True),
    case("fractions-groups-off-the-map", 2, 4, 2, 4, 3, 5, 8, (9, 5), spread=1.5),
    case("blocks-of-both", 1, 2, 2, 9, 8, 19, 16, (6, 7)),
    case("whole-steps-off-the-map-heads-of-24", 1, 3, 3, 3, 4, 5, 24, spread=1.5, slow=True),
    case("one-row", 2, 2, 1, 1, 6, 4, 8, slow=True),
    case("one-column-of-fractions", 1, 2, 1, 6, 1, 4, 8, (7, 1), slow=True),
    case("many-keys", 1, 2, 1, 5, 7, 40, 16, slow=True),
]
