"""Deformable attention against its definition, on full grids of displacements."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import foveal
from foveal.errors import BackendError
from foveal.kernels import chunks
from foveal.kernels.deformable_attention import (
    Bias,
    attend,
    attention_weights,
    deformable_attention,
    fixed_bias,
    log_bias,
    reference,
    table_bias,
)
from foveal.kernels.dispatch import use_backend

# Batch, heads, groups, h, w, n, table's ht and wt.
CASES = [
    (2, 4, 2, 5, 3, 6, 9, 5),
    (1, 2, 1, 1, 1, 1, 1, 1),
    (2, 3, 3, 4, 7, 5, 27, 13),
    (1, 4, 1, 1, 6, 4, 3, 7),
]


def inputs(case: tuple[int, ...]) -> list[Tensor]:
    b, heads, groups, h, w, n, ht, wt = case
    torch.manual_seed(sum(case))
    shapes = [(b, heads, h, w, 4), (b, heads, n, 4), (b, heads, n, 4), (heads, ht, wt)]
    q, k, v, table = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    # Some of the points lie off the map, some displacements off the table.
    positions = 1.5 * torch.randn(b, groups, n, 2, dtype=torch.float64)
    query_y = torch.linspace(-1, 1, h + 2, dtype=torch.float64)[1:-1]
    query_x = torch.linspace(-0.9, 1, w, dtype=torch.float64)
    return [t.requires_grad_() for t in (q, k, v, positions, table)] + [query_y, query_x]


def displacements(positions: Tensor, query_y: Tensor, query_x: Tensor) -> Tensor:
    """(b groups h w n 2): query − key, (y, x)."""
    query = torch.stack(torch.meshgrid(query_y, query_x, indexing="ij"), -1)
    return query[None, None, :, :, None] - positions[:, :, None, None]


def by_definition(
    q: Tensor, k: Tensor, v: Tensor, positions: Tensor, table: Tensor, y: Tensor, x: Tensor
) -> Tensor:
    b, heads, h, w, d = q.shape
    groups, n = positions.shape[1:3]
    where = displacements(positions, y, x).flatten(0, 1).flatten(1, 2).flip(-1) / 2
    tables = table.view(1, groups, heads // groups, *table.shape[1:]).expand(b, -1, -1, -1, -1)
    bias = F.grid_sample(tables.flatten(0, 1), where, align_corners=True, padding_mode="zeros")
    logits = q.flatten(2, 3) @ k.mT / d**0.5 + bias.reshape(b, heads, h * w, n)
    return (logits.softmax(-1) @ v).view(b, heads, h, w, d)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_definition(case: tuple[int, ...]) -> None:
    tensors = inputs(case)
    found, expected = deformable_attention(*tensors), by_definition(*tensors)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(found)
    ours = torch.autograd.grad(found, tensors[:5], cotangent)
    theirs = torch.autograd.grad(expected, tensors[:5], cotangent)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_chunks_change_nothing(case: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = inputs(case)
    whole = deformable_attention(*tensors)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    torch.testing.assert_close(deformable_attention(*tensors), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_weights_are_those_of_the_output(case: tuple[int, ...]) -> None:
    q, k, v, positions, table, y, x = inputs(case)
    bias = table_bias(table, positions, y, x)
    for some in (bias, None):
        weights = attention_weights(q, k, some)
        expected = attend(q, k, v, some).flatten(2, 3)
        torch.testing.assert_close(weights @ v, expected, rtol=1e-10, atol=1e-10)


def check_bias(bias: Bias, expected: Tensor) -> None:
    torch.testing.assert_close(bias.columns(slice(None)), expected, rtol=1e-10, atol=1e-10)
    part = bias.columns(slice(0, 1))
    torch.testing.assert_close(part, expected[:, :, :, :1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_exported_table_bias_is_that_of_the_cpu(case: tuple[int, ...]) -> None:
    _, _, _, positions, table, y, x = inputs(case)
    exported = reference._table_by_cells(table, positions, y, x)
    check_bias(Bias(exported, 1), table_bias(table, positions, y, x).columns(slice(None)))


@pytest.mark.parametrize("case", CASES)
def test_log_bias(case: tuple[int, ...]) -> None:
    _, _, _, positions, _, y, x = inputs(case)
    first, second = torch.randn(8, 2).double(), torch.randn(3, 8).double()
    u = 4 * displacements(positions, y, x)
    spaced = u.sign() * (u.abs() + 1).log2() / torch.tensor(8.0).log2()

    def mlp(pairs: Tensor) -> Tensor:
        return (pairs @ first.T).relu() @ second.T

    expected = mlp(spaced).permute(0, 1, 5, 2, 3, 4).flatten(1, 2)
    check_bias(log_bias(mlp, 8, positions, y, x), expected)


@pytest.mark.parametrize("queries", [(4, 6), (9, 5), (1, 1)])
@pytest.mark.parametrize("keys", [(2, 3), (5, 2), (1, 1)])
def test_fixed_bias_is_resized_over_queries_and_keys(
    queries: tuple[int, int], keys: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    table = torch.randn(3, 24, 6, dtype=torch.float64)
    resize = {"mode": "bilinear", "align_corners": False, "antialias": False}
    over_keys = F.interpolate(table.view(3, 24, 2, 3), keys, **resize).flatten(2)
    over_queries = F.interpolate(over_keys.transpose(1, 2).unflatten(2, (4, 6)), queries, **resize)
    expected = over_queries.permute(0, 2, 3, 1)[None]
    check_bias(fixed_bias(table, (4, 6), (2, 3), queries, keys, torch.float64), expected)


def test_fixed_bias_is_itself_at_its_own_size() -> None:
    table = torch.randn(3, 24, 6)
    bias = fixed_bias(table, (4, 6), (2, 3), (4, 6), (2, 3), torch.float32)
    torch.testing.assert_close(bias.columns(slice(None)), table.view(1, 3, 4, 6, 6))


def test_low_precision_keeps_its_dtype() -> None:
    q, k, v, positions, table, y, x = (t.detach().float() for t in inputs(CASES[0]))
    low = [t.bfloat16() for t in (q, k, v)]
    out = deformable_attention(low[0], low[1], low[2], positions, table.bfloat16(), y, x)
    assert out.dtype == torch.bfloat16
    wide = [t.float() for t in low]
    exact = deformable_attention(
        wide[0], wide[1], wide[2], positions, table.bfloat16().float(), y, x
    )
    torch.testing.assert_close(out, exact.bfloat16())


def on_list(tensors: list[Tensor], y: Tensor, x: Tensor, **options: Any) -> Tensor:
    q, k, v, positions, table = tensors
    return deformable_attention(q, k, v, positions, table, y, x, **options)


# Keys on the map's border and corners, between them, off the map, and far off the table.
PLACES = [-1.0, 1.0, 0.0, 1.001, -1.7, 3.0, -40.0, 1e9]


@pytest.mark.parametrize("corner_aligned", [False, True])
def test_kernel_agrees_wherever_the_keys_are(corner_aligned: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    y, x = torch.linspace(-1, 1, 3), torch.linspace(-1, 1, 4)
    positions = torch.cartesian_prod(torch.tensor(PLACES), torch.tensor(PLACES))[None, None, ::5]
    n = positions.shape[2]
    shapes = [(1, 2, 3, 4, 8), (1, 2, n, 8), (1, 2, n, 8), (2, 5, 7)]
    q, k, v, table = (torch.randn(shape, generator=draw) for shape in shapes)
    found, expected = (
        deformable_attention(
            q, k, v, positions, table, y, x, corner_aligned=corner_aligned, backend=backend
        )
        for backend in ("triton", "reference")
    )
    torch.testing.assert_close(found, expected)


def test_kernel_with_one_key_returns_its_value() -> None:
    tensors = [t.detach().float().requires_grad_() for t in inputs(CASES[1])[:5]]
    grid = torch.zeros(1), torch.zeros(1)
    out = on_list(tensors, *grid, corner_aligned=True, backend="triton")
    torch.testing.assert_close(out.flatten(2), tensors[2].flatten(2))
    gradients = torch.autograd.grad(out.sum(), tensors)
    for gradient, expected in zip(gradients, (0.0, 0.0, 1.0, 0.0, 0.0), strict=True):
        torch.testing.assert_close(gradient, torch.full_like(gradient, expected))


def test_kernel_gradients_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.kernels.deformable_attention import triton

    *tensors, y, x = (t.detach().float() for t in inputs((2, 2, 1, 2, 3, 2, 5, 5)))
    for t in tensors:
        t.requires_grad_()

    def gradients() -> tuple[Tensor, ...]:
        out = on_list(tensors, y, x, backend="triton")
        return torch.autograd.grad(out.square().sum(), tensors)

    whole = gradients()
    # One row of one image at a time.
    monkeypatch.setattr(triton, "CHUNK_BYTES", 1)
    torch.testing.assert_close(gradients(), whole)


def test_kernel_leaves_out_the_gradient_of_a_frozen_table() -> None:
    *tensors, y, x = (t.detach().float() for t in inputs(CASES[3]))
    tensors[0].requires_grad_()
    found, expected = (
        torch.autograd.grad(on_list(tensors, y, x, backend=backend).square().sum(), tensors[0])
        for backend in ("triton", "reference")
    )
    torch.testing.assert_close(found, expected)


def test_kernel_says_what_it_does_not_take() -> None:
    *tensors, y, x = (t.detach().float() for t in inputs(CASES[3]))
    with pytest.raises(BackendError, match="query coordinates need a gradient"):
        on_list(tensors, y.requires_grad_(), x, backend="triton")
    tensors[0] = tensors[0].half()
    with pytest.raises(BackendError, match="one dtype"):
        on_list(tensors, y.detach(), x, backend="triton")


@pytest.mark.parametrize("name", ["dat_tiny", "dat_pp_tiny"])
def test_networks_agree_on_both_backends(name: str) -> None:
    torch.manual_seed(0)
    model = foveal.create_model(
        name,
        img_size=32,
        dims=(8, 16),
        depths=(1, 1),
        stage_spec="DD",
        num_heads=(1, 2),
        num_groups=(1, 2),
        offset_strides=(2, 1),
        offset_kernels=(3, 3),
        num_classes=3,
    ).eval()
    with torch.no_grad():
        for key, table in model.named_parameters():
            if key.endswith("position_bias.table"):
                table.normal_()
    # The trained size, and one at which queries are fractions of a cell apart.
    for size in ((32, 32), (48, 40)):
        image = torch.randn(1, 3, *size)
        with torch.no_grad():
            with use_backend("triton"):
                found = model(image)
            expected = model(image)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
