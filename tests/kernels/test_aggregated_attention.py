"""Aggregated attention and its position bias against the formulas, one pair at a time."""

from contextlib import contextmanager
from math import log2
from unittest import mock

import pytest
import torch
from tests.kernels.harness import DEVICE
from torch import Tensor
from torch.nn import functional as F

from foveal import create_model
from foveal.errors import BackendError
from foveal.kernels import chunks, launch
from foveal.kernels.aggregated_attention import (
    AttentionTerms,
    aggregated_attention,
    aggregated_attention_weights,
)
from foveal.kernels.biased_attention import biased_attention, biased_attention_weights
from foveal.kernels.dispatch import use_backend
from foveal.kernels.position_bias import (
    BiasMLP,
    LogSpacedBias,
    extrapolated_bias,
    interpolated_bias,
)
from foveal.models.transnext import TransNeXt

HEADS, CHANNELS = 2, 3
# (H, W), (Hp, Wp): whole cells, ragged, overlapping, single cells, more cells than pixels.
SHAPES = [
    ((4, 6), (2, 3)),
    ((5, 7), (2, 3)),
    ((7, 3), (3, 2)),
    ((3, 4), (3, 4)),
    ((1, 5), (1, 2)),
    ((1, 1), (1, 1)),
    ((2, 3), (4, 4)),
]

Five = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def inputs(
    size: tuple[int, int], cells: tuple[int, int], window: int = 3
) -> tuple[Five, AttentionTerms, BiasMLP]:
    """Query, key, value, pooled key, pooled value; the learned terms; the position bias."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    k2 = window**2
    terms = AttentionTerms(
        normal(HEADS, CHANNELS),
        normal(HEADS).abs(),
        normal(HEADS, k2),
        normal(HEADS, CHANNELS, k2),
        normal(HEADS, k2),
    )
    mlp = BiasMLP(normal(16, 2), normal(16), normal(HEADS, 16), normal(HEADS))
    query, key, value = (normal(2, *size, HEADS, CHANNELS) for _ in range(3))
    pooled_key, pooled_value = (normal(2, *cells, HEADS, CHANNELS) for _ in range(2))
    return (query, key, value, pooled_key, pooled_value), terms, mlp


def centre(cell: int, size: int, cells: int) -> float:
    """Mean position of the pixels that adaptive average pooling gives a cell."""
    pixels = torch.arange(size, dtype=torch.float64)[None, None]
    return F.adaptive_avg_pool1d(pixels, cells)[0, 0, cell].item()


def coordinate(query: int, key: float, side: int) -> float:
    displacement = (query - key) / max(side - 1, 1) * 8
    sign = (displacement > 0) - (displacement < 0)
    return sign * log2(abs(displacement) + 1) / log2(8)


def naive_bias(mlp: BiasMLP, size: tuple[int, int], cells: tuple[int, int], side: int) -> Tensor:
    bias = torch.empty(HEADS, *size, *cells, dtype=torch.float64)
    for y, x, a, b in torch.cartesian_prod(*(torch.arange(n) for n in (*size, *cells))).tolist():
        at = torch.tensor(
            [
                coordinate(y, centre(a, size[0], cells[0]), side),
                coordinate(x, centre(b, size[1], cells[1]), side),
            ],
            dtype=torch.float64,
        )
        hidden = (mlp.weight1 @ at + mlp.bias1).clamp(min=0)
        bias[:, y, x, a, b] = mlp.weight2 @ hidden + mlp.bias2
    return bias


def naive_resized(bias: Tensor, size: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """Bilinear resizing of (n s s p p), over the keys, then over the queries."""
    n, s, _, p, _ = bias.shape
    keys = F.interpolate(bias.reshape(n, s * s, p, p), cells, mode="bilinear")
    queries = keys.reshape(n, s, s, -1).permute(0, 3, 1, 2)
    queries = F.interpolate(queries, size, mode="bilinear")
    return queries.permute(0, 2, 3, 1).reshape(n, *size, *cells)


def naive_position(
    head: int, query: Tensor, keys: list, terms: AttentionTerms, pooled: tuple[Tensor, ...]
) -> Tensor:
    """y at one position: keys are (k, v) of the window, None outside; pooled has k, v and B."""
    seen = [pair for pair in keys if pair is not None]
    unit = query / query.norm()
    count = torch.tensor(float(len(seen) + len(pooled[0])), dtype=torch.float64)
    scaled = (unit + terms.query_embedding[head]) * terms.scale[head] * count.log()
    logits, values = [], []
    for cell, pair in enumerate(keys):
        if pair is not None:
            logits.append(scaled @ (pair[0] / pair[0].norm()) + terms.local_bias[head, cell])
            values.append(pair[1])
    for key, value, bias in zip(*pooled, strict=True):
        logits.append(scaled @ (key / key.norm()) + bias)
        values.append(value)
    y = torch.stack(logits).softmax(0) @ torch.stack(values)
    for cell, pair in enumerate(keys):
        if pair is not None:
            token = unit @ terms.tokens[head, :, cell] + terms.token_bias[head, cell]
            y = y + token * pair[1]
    return y


def naive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    terms: AttentionTerms,
    bias: Tensor,
) -> Tensor:
    b, h, w, n, _ = query.shape
    reach = round(terms.local_bias.shape[-1] ** 0.5) // 2
    out = torch.empty_like(query)
    for i in torch.cartesian_prod(*(torch.arange(s) for s in (b, n, h, w))).tolist():
        image, head, y, x = i
        window = [
            (key[image, v, u, head], value[image, v, u, head])
            if 0 <= v < h and 0 <= u < w
            else None
            for v in range(y - reach, y + reach + 1)
            for u in range(x - reach, x + reach + 1)
        ]
        pooled = (
            pooled_key[image, :, :, head].flatten(0, 1),
            pooled_value[image, :, :, head].flatten(0, 1),
            bias[head, y, x].flatten(),
        )
        out[image, y, x, head] = naive_position(
            head, query[image, y, x, head], window, terms, pooled
        )
    return out


@pytest.mark.parametrize(("size", "cells"), SHAPES)
@pytest.mark.parametrize("side", [1, 5])
def test_extrapolated_bias(size: tuple[int, int], cells: tuple[int, int], side: int) -> None:
    mlp = inputs(size, cells)[-1]
    found = extrapolated_bias(mlp, size, cells, side).of_rows(0, size[0])
    torch.testing.assert_close(found, naive_bias(mlp, size, cells, side))


@pytest.mark.parametrize(("size", "cells"), SHAPES)
@pytest.mark.parametrize(("side", "pretrain_cells"), [(1, 1), (4, 2), (5, 2), (3, 3)])
def test_interpolated_bias(
    size: tuple[int, int], cells: tuple[int, int], side: int, pretrain_cells: int
) -> None:
    mlp = inputs(size, cells)[-1]
    trained = naive_bias(mlp, (side, side), (pretrain_cells, pretrain_cells), side)
    found = interpolated_bias(mlp, size, cells, side, pretrain_cells).of_rows(0, size[0])
    torch.testing.assert_close(found, naive_resized(trained, size, cells))


@pytest.mark.parametrize(("size", "cells"), SHAPES)
def test_attention(size: tuple[int, int], cells: tuple[int, int]) -> None:
    tensors, terms, mlp = inputs(size, cells)
    bias = LogSpacedBias(mlp, 5)
    expected = naive_attention(*tensors, terms, naive_bias(mlp, size, cells, 5))
    torch.testing.assert_close(aggregated_attention(*tensors, terms, bias), expected)


@pytest.mark.parametrize("window", [1, 5])
def test_other_windows(window: int) -> None:
    tensors, terms, mlp = inputs((4, 3), (2, 2), window)
    bias = LogSpacedBias(mlp, 5)
    expected = naive_attention(*tensors, terms, naive_bias(mlp, (4, 3), (2, 2), 5))
    torch.testing.assert_close(aggregated_attention(*tensors, terms, bias), expected)


def test_local_and_pooled_weights_share_one_softmax() -> None:
    (query, key, _, pooled_key, _), terms, mlp = inputs((5, 7), (2, 3))
    bias = LogSpacedBias(mlp, 5)
    weights = aggregated_attention_weights(query, key, pooled_key, terms, bias)
    total = weights.local.sum(-1) + weights.pooled.sum((-2, -1))
    torch.testing.assert_close(total, torch.ones_like(total))
    # The corner's window has five cells outside the map.
    assert weights.local[:, :, 0, 0, [0, 1, 2, 3, 6]].eq(0).all()


def test_full_attention() -> None:
    (query, key, value, _, _), _, mlp = inputs((4, 3), (4, 3))
    query, key, value = (t.permute(0, 3, 1, 2, 4) for t in (query, key, value))
    bias = naive_bias(mlp, (4, 3), (4, 3), 5)
    logits = torch.einsum("bnyxd,bnuvd->bnyxuv", query, key) + bias
    weights = logits.flatten(4).softmax(-1).view(logits.shape)
    provider = LogSpacedBias(mlp, 5)
    torch.testing.assert_close(biased_attention_weights(query, key, provider), weights)
    found = biased_attention(query, key, value, provider)
    torch.testing.assert_close(found, torch.einsum("bnyxuv,bnuvd->bnyxd", weights, value))


@pytest.mark.parametrize("pretrain_cells", [None, 2])
def test_chunks_change_nothing(pretrain_cells: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, terms, mlp = inputs((7, 5), (3, 2))
    bias = LogSpacedBias(mlp, 5, pretrain_cells)

    def outputs() -> tuple[Tensor, Tensor]:
        y = aggregated_attention(*tensors, terms, bias)
        q, k, v = (t.permute(0, 3, 1, 2, 4) for t in tensors[:3])
        return y, biased_attention(q, k, v, bias)

    whole = outputs()
    for limit in (1, 4000):
        monkeypatch.setattr(chunks, "CHUNK_BYTES", limit)
        assert len(chunks.row_chunks(7, 1200)) > 1
        torch.testing.assert_close(outputs(), whole)


def test_row_chunks_cover_all_rows() -> None:
    found = chunks.row_chunks(10, chunks.CHUNK_BYTES // 4)
    assert found == [(0, 4), (4, 8), (8, 10)]
    assert chunks.row_chunks(2, 10 * chunks.CHUNK_BYTES) == [(0, 1), (1, 2)]


@pytest.mark.parametrize("pretrain_cells", [None, 2])
def test_gradients(pretrain_cells: int | None) -> None:
    tensors, terms, mlp = inputs((2, 3), (1, 2))
    leaves = [t.requires_grad_() for t in (*tensors, *terms, *mlp)]

    def run(*leaves: Tensor) -> Tensor:
        terms, mlp = AttentionTerms(*leaves[5:10]), BiasMLP(*leaves[10:])
        bias = LogSpacedBias(mlp, 5, pretrain_cells)
        q, k, v, pooled_k, pooled_v = leaves[:5]
        return aggregated_attention(q, k, v, pooled_k, pooled_v, terms, bias)

    assert torch.autograd.gradcheck(run, leaves)


def test_low_precision_is_computed_in_float32() -> None:
    tensors, terms, mlp = inputs((5, 7), (2, 3))
    terms, mlp = AttentionTerms(*(t.float() for t in terms)), BiasMLP(*(t.float() for t in mlp))
    bias = LogSpacedBias(mlp, 5)
    q, k, v, pooled_k, pooled_v = (t.bfloat16() for t in tensors)
    found = aggregated_attention(q, k, v, pooled_k, pooled_v, terms, bias)
    q, k, v, pooled_k, pooled_v = (t.float() for t in (q, k, v, pooled_k, pooled_v))
    exact = aggregated_attention(q, k, v, pooled_k, pooled_v, terms, bias)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact.bfloat16())


@pytest.mark.parametrize("position_bias", ["extrapolate", "interpolate"])
def test_transnext_is_the_same_on_every_backend(position_bias: str) -> None:
    torch.manual_seed(0)
    model = create_model(
        "transnext_micro",
        embed_dims=(24, 24),
        num_heads=(1, 1),
        depths=(1, 1),
        token_mixers="AA",
        mlp_ratios=(1, 1),
        sr_ratios=(4, 2),
        pretrain_size=32,
        num_classes=3,
        position_bias=position_bias,
    )
    assert isinstance(model, TransNeXt)
    model.eval().to(DEVICE)
    image = torch.randn(1, 3, 32, 48, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    with torch.no_grad():
        with use_backend("reference"):
            expected = model.forward_features(image)
        with use_backend("triton"), recording() as launched:
            found = model.forward_features(image)
    assert launched == ["forward_kernel"] * 2
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-6)


@contextmanager
def recording():
    """The names of this operator's kernels launched inside."""
    names, run = [], launch.run

    def named(kernel, *args, **settings) -> None:
        # ConvGLU's convolution has kernels too.
        if "aggregated_attention" in kernel.fn.__module__:
            names.append(kernel.fn.__name__)
        run(kernel, *args, **settings)

    with mock.patch.object(launch, "run", named):
        yield names


def test_kernels_take_vectors_of_zeros() -> None:
    tensors, terms, mlp = on_kernels((2, 3), (1, 2))
    query, key, _, pooled_key, _ = (t.detach() for t in tensors)
    query[:, 0, 0], key[:, 1, 2], pooled_key[:, 0, 1] = 0, 0, 0
    expected, found = (
        torch.autograd.grad(
            aggregated_attention(
                *tensors, terms, LogSpacedBias(mlp, 5), backend=backend
            ).square().sum(),
            tensors,
        )
        for backend in ("reference", "triton")
    )  # fmt: skip
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-4)


def test_kernels_need_no_copy_of_slices() -> None:
    draw = torch.Generator().manual_seed(0)
    keys_values = torch.randn(2, 3, 4, 2 * 48, generator=draw)
    halves = [half.unflatten(-1, (2, 24)) for half in keys_values.chunk(2, -1)]
    assert all(triton_rows(half) is half for half in halves)
    turned = keys_values.transpose(1, 2)[..., :48].unflatten(-1, (2, 24))
    assert triton_rows(turned).is_contiguous()


def test_what_kernels_cannot_run_is_said() -> None:
    tensors, terms, mlp = on_kernels((2, 3), (1, 2), window=7)
    with pytest.raises(BackendError, match="windows have 25 cells at most, not 49"):
        aggregated_attention(*tensors, terms, LogSpacedBias(mlp, 5), backend="triton")


def test_kernels_stay_whole_when_compiled() -> None:
    tensors, terms, mlp = on_kernels((2, 3), (1, 2))
    tensors = [t.detach() for t in tensors]

    def run(*tensors: Tensor) -> Tensor:
        q, k, v, pooled_k, pooled_v = tensors
        bias = LogSpacedBias(mlp, 5)
        return aggregated_attention(q, k, v, pooled_k, pooled_v, terms, bias, backend="triton")

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*tensors), run(*tensors))


def triton_rows(x: Tensor) -> Tensor:
    from foveal.kernels.aggregated_attention.triton import as_rows

    return as_rows(x)


def on_kernels(
    size: tuple[int, int], cells: tuple[int, int], window: int = 3
) -> tuple[Five, AttentionTerms, BiasMLP]:
    """`inputs` in float32, where kernels run; the first five want gradients."""
    tensors, terms, mlp = inputs(size, cells, window)
    q, k, v, pooled_k, pooled_v = (t.to(DEVICE, torch.float32).requires_grad_() for t in tensors)
    terms = AttentionTerms(*(t.to(DEVICE, torch.float32) for t in terms))
    mlp = BiasMLP(*(t.to(DEVICE, torch.float32) for t in mlp))
    return (q, k, v, pooled_k, pooled_v), terms, mlp
