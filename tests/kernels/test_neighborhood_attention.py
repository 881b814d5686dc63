"""Neighbourhood attention against its definition, position by position."""

import pytest
import torch
from torch import Tensor

from foveal.kernels import chunks
from foveal.kernels.neighborhood_attention import neighborhood_attention, neighborhood_weights

SIZES = [
    (7, 7, 7),
    (7, 20, 7),
    (13, 9, 7),
    (16, 15, 7),
    (3, 3, 3),
    (4, 8, 3),
    (11, 3, 3),
    (2, 5, 1),
]


def attend(tensors: list[Tensor], s: int) -> Tensor:
    q, k, v, bias = tensors
    return neighborhood_attention(q, k, v, bias, (q.shape[1], q.shape[2]), s)


def by_definition(tensors: list[Tensor], s: int) -> Tensor:
    q, k, v, bias = tensors
    b, h, w, heads, d = q.shape
    out = torch.empty_like(q)
    for y in range(h):
        for x in range(w):
            top, left = min(max(y - s // 2, 0), h - s), min(max(x - s // 2, 0), w - s)
            near_k = k[:, top : top + s, left : left + s].reshape(b, s * s, heads, d)
            near_v = v[:, top : top + s, left : left + s].reshape(b, s * s, heads, d)
            dy, dx = top - y + s - 1, left - x + s - 1
            near_bias = bias[:, dy : dy + s, dx : dx + s].reshape(heads, s * s)
            logits = torch.einsum("bhd,bnhd->bhn", q[:, y, x], near_k) / d**0.5 + near_bias
            out[:, y, x] = torch.einsum("bhn,bnhd->bhd", logits.softmax(-1), near_v)
    return out


def inputs(h: int, w: int, s: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(h * 100 + w)
    shapes = [(2, h, w, 2, 4)] * 3 + [(2, 2 * s - 1, 2 * s - 1)]
    drawn = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return [tensor.requires_grad_() for tensor in drawn]


@pytest.mark.parametrize(("h", "w", "s"), SIZES)
def test_equals_the_definition(h: int, w: int, s: int) -> None:
    tensors = inputs(h, w, s)
    found, expected = attend(tensors, s), by_definition(tensors, s)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    cotangent = torch.randn_like(found)
    ours = torch.autograd.grad(found, tensors, cotangent)
    theirs = torch.autograd.grad(expected, tensors, cotangent)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("h", "w", "s"), SIZES)
def test_chunks_change_nothing(h: int, w: int, s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = inputs(h, w, s)
    whole = attend(tensors, s)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    torch.testing.assert_close(attend(tensors, s), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("h", "w", "s"), SIZES)
def test_weights_are_those_of_the_output(h: int, w: int, s: int) -> None:
    q, k, _, bias = inputs(h, w, s)
    weights = neighborhood_weights(q, k, bias, s)
    assert weights.shape == (2, 2, h, w, s * s)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, h, w, dtype=torch.float64))
    # Positions 0, 1, 2, … as values turn the output into a weighted mean of neighbours' numbers.
    number = torch.arange(h * w, dtype=torch.float64).view(1, h, w, 1, 1).expand(2, h, w, 2, 4)
    found = neighborhood_attention(q, k, number, bias, (h, w), s)[..., 0].permute(0, 3, 1, 2)
    rows = (torch.arange(h) - s // 2).clamp(0, h - s)[:, None] + torch.arange(s)
    columns = (torch.arange(w) - s // 2).clamp(0, w - s)[:, None] + torch.arange(s)
    numbers = (rows[:, None, :, None] * w + columns[None, :, None, :]).flatten(2)
    torch.testing.assert_close((weights * numbers).sum(-1), found)


def test_low_precision_keeps_its_dtype() -> None:
    q, k, v, bias = (tensor.detach().bfloat16() for tensor in inputs(9, 8, 7))
    out = neighborhood_attention(q, k, v, bias, (9, 8), 7)
    assert out.dtype == torch.bfloat16
    exact = neighborhood_attention(q.float(), k.float(), v.float(), bias.float(), (9, 8), 7)
    torch.testing.assert_close(out, exact.bfloat16())
