"""Neighbourhood attention against its definition, position by position."""

from dataclasses import replace

import pytest
import torch
from tests.kernels import harness
from torch import Tensor

from foveal.errors import BackendError
from foveal.kernels import chunks
from foveal.kernels.dispatch import use_backend
from foveal.kernels.neighborhood_attention import neighborhood_attention, neighborhood_weights
from foveal.models.dat import DAT, VARIANTS

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
    with torch.no_grad():
        torch.testing.assert_close(attend(tensors, s), expected, rtol=1e-10, atol=1e-10)
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


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, s: int) -> Tensor:
    return neighborhood_attention(q, k, v, bias, (q.shape[1], q.shape[2]), s, backend="triton")


def on_device(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().float().to(harness.DEVICE).requires_grad_() for t in tensors]


def test_images_of_one_program_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    from foveal.kernels.neighborhood_attention import triton

    tensors = inputs(4, 9, 3)
    tensors = on_device([*(torch.cat([t, t + 1])[:3] for t in tensors[:3]), tensors[3]])
    alone = harness.with_gradients(lambda *t: fused(*t, s=3), tensors)
    monkeypatch.setattr(triton, "PROGRAMS", 0)
    assert triton._plan("d_query", tensors[0], (4, 9), 3).grid == (4, 2)
    together = harness.with_gradients(lambda *t: fused(*t, s=3), tensors)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


def test_the_kernels_take_a_neighbourhood_of_one() -> None:
    tensors = on_device(inputs(2, 5, 1))
    out, *gradients = harness.with_gradients(lambda *t: fused(*t, s=1), tensors)
    torch.testing.assert_close(out, tensors[2])
    # A softmax of one number is one, whatever the number.
    for gradient in (gradients[0], gradients[1], gradients[3]):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("s", "d", "dtype", "reason"),
    [
        (15, 4, torch.float32, "at most 13 positions a side, not 15"),
        (3, 130, torch.float32, "at most 128 channels, not 130"),
        (3, 4, torch.float16, "one dtype"),
    ],
)
def test_what_the_kernels_cannot_do(s: int, d: int, dtype: torch.dtype, reason: str) -> None:
    q, k = (torch.zeros(1, s, s, 1, d, device=harness.DEVICE) for _ in range(2))
    bias = torch.zeros(1, 2 * s - 1, 2 * s - 1, device=harness.DEVICE)
    with pytest.raises(BackendError, match=reason):
        fused(q, k.to(dtype), k, bias, s)


def test_a_network_is_the_same_on_the_kernels() -> None:
    config = replace(
        VARIANTS["dat_pp_tiny"],
        dims=(16, 16),
        depths=(1, 1),
        stage_spec=("N", "N"),
        num_heads=(1, 1),
        num_groups=(1, 1),
        offset_strides=(1, 1),
        offset_kernels=(3, 3),
        neighborhood_size=5,
        num_classes=4,
        img_size=32,
    )
    torch.manual_seed(0)
    model = DAT(config).eval().to(harness.DEVICE)
    image = torch.randn(1, 3, 32, 32, device=harness.DEVICE)
    outputs = []
    for backend in ("reference", "triton"):
        with use_backend(backend), torch.no_grad():
            outputs.append(model(image))
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
