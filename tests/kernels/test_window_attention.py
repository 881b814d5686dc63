"""Window attention against its definition, and its tables against loops."""

import pytest
import torch
from torch import Tensor

from foveal.kernels.window_attention import (
    relative_position_index,
    shift_mask,
    window_attention,
    window_weights,
)

CPU = torch.device("cpu")


def by_definition(qkv: Tensor, bias: Tensor, mask: Tensor | None, window: int) -> Tensor:
    b, h, w, _, heads, d = qkv.shape
    out = qkv.new_empty(b, h, w, heads, d)
    for index, (y, x) in enumerate(
        (y, x) for y in range(0, h, window) for x in range(0, w, window)
    ):
        tile = (slice(None), slice(y, y + window), slice(x, x + window))
        q, k, v = qkv[tile].flatten(1, 2).permute(2, 0, 3, 1, 4)
        logits = q @ k.mT / d**0.5 + bias + (0 if mask is None else mask[index])
        values = (logits.softmax(-1) @ v).transpose(1, 2)
        out[tile] = values.reshape(b, window, window, heads, d)
    return out


@pytest.mark.parametrize(("h", "w", "window"), [(6, 9, 3), (4, 4, 4), (7, 14, 7), (2, 3, 1)])
@pytest.mark.parametrize("shifted", [False, True])
def test_equals_the_definition(h: int, w: int, window: int, shifted: bool) -> None:
    torch.manual_seed(0)
    qkv = torch.randn(2, h, w, 3, 2, 4, dtype=torch.float64)
    bias = torch.randn(2, window**2, window**2, dtype=torch.float64)
    shift = (window + 1) // 2 if shifted else 0
    mask = shift_mask(h, w, window, shift, torch.float64, CPU) if shifted else None
    rolled = by_definition(qkv.roll((-shift, -shift), (1, 2)), bias, mask, window)
    expected = rolled.roll((shift, shift), (1, 2))[:, : h - 1, : w - 2]
    found = window_attention(qkv, bias, (h - 1, w - 2), window, shift)
    torch.testing.assert_close(found, expected)
    weights = window_weights(qkv, bias, window, shift)
    assert weights.shape == (2, h * w // window**2, 2, window**2, window**2)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))


@pytest.mark.parametrize("window", [1, 3, 7])
def test_relative_position_index(window: int) -> None:
    index = relative_position_index(window, CPU)
    for i in range(window**2):
        for j in range(window**2):
            dy, dx = i // window - j // window, i % window - j % window
            assert index[i, j] == (dy + window - 1) * (2 * window - 1) + dx + window - 1


@pytest.mark.parametrize(
    ("h", "w", "window", "shift"), [(14, 21, 7, 4), (12, 24, 12, 6), (3, 3, 3, 2)]
)
def test_shift_mask(h: int, w: int, window: int, shift: int) -> None:
    """Regions painted slice by slice, as the definition words them."""
    regions = torch.zeros(h, w)
    number = 0
    slices = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for rows in slices:
        for columns in slices:
            regions[rows, columns] = number
            number += 1
    tiles = regions.view(h // window, window, w // window, window).transpose(1, 2)
    tiles = tiles.reshape(-1, window**2)
    expected = torch.where(tiles[:, :, None] == tiles[:, None, :], 0.0, -100.0)
    assert torch.equal(shift_mask(h, w, window, shift, torch.float32, CPU), expected)
