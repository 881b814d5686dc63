"""Readings hold what forward computed: put together again, they give its output."""

from functools import singledispatch
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.attentions import (
    AggregatedAttentionReading,
    CloAttentionReading,
    FullAttentionReading,
)
from foveal.tools.explain.deformed import (
    DeformableAttentionReading,
    NeighborhoodAttentionReading,
    WindowAttentionReading,
)
from foveal.tools.explain.modulations import (
    ConvGLUReading,
    EfficientModulationReading,
    FocalModulationReading,
)
from foveal.tools.explain.reading import AttentionReading, Reading
from foveal.tools.explain.record import read
from tests.tools.explain.mixers import ATTENTIONS, MIXERS, SIZES, map_for, mixer


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", MIXERS)
def test_readings_recombine_into_the_output(name: str, size: tuple[int, int]) -> None:
    layer = mixer(name)
    x = map_for(layer, size)
    with torch.no_grad():
        again = recombined(read(layer, x), layer, x)
        torch.testing.assert_close(again, layer(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", ATTENTIONS)
def test_every_query_shares_out_one(name: str, size: tuple[int, int]) -> None:
    layer = mixer(name)
    reading = read(layer, map_for(layer, size))
    assert isinstance(reading, AttentionReading)
    assert reading.size == size
    for y, x in ((0, 0), (3, 5), (size[0] - 1, size[1] - 1)):
        for image in (0, 1):
            seen = reading.attention_of(y, x, image)
            np.testing.assert_allclose(sum_of(seen), 1, rtol=1e-9)
            assert seen.on_map().shape == (seen.num_heads, *size)
            # Only what a mixer pads the map with, or points off the map, is not on it.
            padded = isinstance(reading, WindowAttentionReading | NeighborhoodAttentionReading)
            if not padded and seen.points is None:
                np.testing.assert_allclose(seen.on_map().sum((1, 2)), 1, rtol=1e-9)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_query_off_the_map(name: str) -> None:
    layer = mixer(name)
    reading = read(layer, map_for(layer, (8, 7)))
    assert isinstance(reading, AttentionReading)
    assert reading.attention_of(-1, -1).query == (7, 6)
    with pytest.raises(IndexError, match="8 rows and 7 columns"):
        reading.attention_of(0, 7)


def sum_of(seen: QueryAttention) -> np.ndarray:
    """All weights of each head."""
    parts = [part.reshape(len(part), -1).sum(1) for part in (seen.grid, seen.window, seen.mass)
             if part is not None]  # fmt: skip
    return np.sum(parts, 0)


@pytest.mark.parametrize("shifted", [False, True])
def test_a_window_is_shown_where_its_keys_are(shifted: bool) -> None:
    """The values of the map, read where each window cell is said to lie, give the output."""
    layer: Any = mixer("window attention, shifted" if shifted else "window attention")
    x = map_for(layer, (8, 12), images=1)
    _shown_where_keys_are(layer, x)


@pytest.mark.parametrize("size", [(8, 12), (3, 5), (2, 9)], ids=str)
def test_a_neighborhood_is_shown_where_its_keys_are(size: tuple[int, int]) -> None:
    layer = mixer("neighbourhood attention")
    _shown_where_keys_are(layer, map_for(layer, size, images=1))


def _shown_where_keys_are(layer: Any, x: Tensor) -> None:
    reading = read(layer, x)
    assert isinstance(reading, WindowAttentionReading | NeighborhoodAttentionReading)
    out = np.zeros((*reading.size, *reading.values.shape[3:]))
    for y, column in np.ndindex(*reading.size):
        seen = reading.attention_of(y, column)
        assert seen.window is not None
        for i, j in np.ndindex(*seen.window.shape[1:]):
            row, col = seen.corner[0] + i, seen.corner[1] + j
            if 0 <= row < reading.values.shape[1] and 0 <= col < reading.values.shape[2]:
                out[y, column] += seen.window[:, i, j, None] * reading.values[0, row, col]
            else:
                # Nothing is left of what lies on the far side of the map.
                assert seen.window[:, i, j].max() < 1e-20
    with torch.no_grad():
        projected = layer.proj(torch.from_numpy(out).flatten(2)).permute(2, 0, 1)
        torch.testing.assert_close(projected[None], layer(x), rtol=1e-9, atol=1e-9)


def test_gates_on_the_contexts_give_the_modulator() -> None:
    layer: Any = mixer("focal modulation")
    reading = read(layer, map_for(layer, (9, 7)))
    assert isinstance(reading, FocalModulationReading)
    assert reading.gates.shape == (2, 4, 9, 7)
    assert [k.shape for k in reading.kernels] == [(8, 3, 3), (8, 5, 5), (8, 7, 7)]
    by_hand = sum(reading.gates[:, i, None] * z for i, z in enumerate(reading.contexts))
    with torch.no_grad():
        modulator = layer.h(torch.from_numpy(np.asarray(by_hand)))
    np.testing.assert_allclose(reading.modulator, modulator, rtol=1e-9)


@pytest.mark.parametrize("name", ["deformable attention", "deformable attention, DAT"])
def test_sampled_points_give_the_keys(name: str) -> None:
    layer: Any = mixer(name)
    x = map_for(layer, (9, 7))
    reading = read(layer, x)
    assert isinstance(reading, DeformableAttentionReading)
    np.testing.assert_allclose(reading.references + reading.offsets, reading.positions)
    groups = zip(x.chunk(2, 1), torch.from_numpy(reading.positions).unbind(1), strict=True)
    samples = [F.grid_sample(m, p.flip(-1), align_corners=True) for m, p in groups]
    with torch.no_grad():
        keys = layer.key(torch.cat(samples, 1)).flatten(2).unflatten(1, (4, -1)).mT
    np.testing.assert_allclose(reading.keys, keys, rtol=1e-9)
    np.testing.assert_allclose(reading.key_importance.sum(-1), 1)


def test_points_as_fractions_of_the_image() -> None:
    """−1 and 1 are the middles of the first and the last cell, as grid_sample has them."""
    layer: Any = mixer("deformable attention, pooled")
    reading = read(layer, map_for(layer, (8, 7)))
    assert isinstance(reading, DeformableAttentionReading)
    corners = reading.on_image(np.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]))
    np.testing.assert_allclose(corners, [[1 / 16, 1 / 14], [15 / 16, 13 / 14], [0.5, 0.5]])


def test_entropy_knows_its_ends() -> None:
    layer: Any = mixer("aggregated attention")
    reading = read(layer, map_for(layer, (8, 8)))
    assert isinstance(reading, AggregatedAttentionReading)
    keys = 9 + 16
    assert (reading.entropy > 0).all() and (reading.entropy < np.log(keys)).all()
    assert reading.window_share.min() > 0 and reading.window_share.max() < 1
    even = np.full((1, 1, 1, 1, keys), 1 / keys)
    flat = FullAttentionReading(even.reshape(1, 1, 1, 1, 5, 5), None, even)
    np.testing.assert_allclose(flat.entropy, np.log(keys))
    sure = FullAttentionReading(np.eye(25)[0].reshape(1, 1, 1, 1, 5, 5), None, even)
    np.testing.assert_array_equal(sure.entropy, 0)


@singledispatch
def recombined(reading: Reading, layer: Any, x: Tensor) -> Tensor:
    """Forward's output from a reading and the layers that come after what it holds."""
    raise NotImplementedError(type(reading))


@recombined.register
def _(reading: FocalModulationReading, layer: Any, x: Tensor) -> Tensor:
    modulator = layer.h(torch.from_numpy(reading.aggregate))
    torch.testing.assert_close(modulator, torch.from_numpy(reading.modulator))
    product = torch.from_numpy(reading.query) * modulator
    return layer.proj(layer.norm(product.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


@recombined.register
def _(reading: EfficientModulationReading, layer: Any, x: Tensor) -> Tensor:
    hidden = reading.hidden * np.tile(reading.context, (1, layer.ratio, 1, 1))
    return layer.fc2(torch.from_numpy(hidden).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@recombined.register
def _(reading: ConvGLUReading, layer: Any, x: Tensor) -> Tensor:
    hidden = torch.from_numpy(reading.gate * reading.value)
    return layer.fc2(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@recombined.register
def _(reading: AggregatedAttentionReading, layer: Any, x: Tensor) -> Tensor:
    b, heads, h, w, cells = reading.local_attention.shape
    side = round(cells**0.5)
    value = reading.value.reshape(b, heads, -1, h, w)
    reach = side // 2
    padded = np.pad(value, ((0, 0),) * 3 + ((reach, reach),) * 2)
    out = np.einsum(
        "bnyxk,bndk->bndyx",
        reading.pooled_attention.reshape(b, heads, h, w, -1),
        reading.pooled_value.reshape(b, heads, value.shape[2], -1),
    )
    weights = reading.local_attention + reading.positional_attention
    for cell in range(cells):
        dy, dx = divmod(cell, side)
        out += weights[..., cell][:, :, None] * padded[..., dy : dy + h, dx : dx + w]
    y = torch.from_numpy(out).flatten(1, 2).permute(0, 2, 3, 1)
    return layer.proj(y).permute(0, 3, 1, 2)


@recombined.register
def _(reading: FullAttentionReading, layer: Any, x: Tensor) -> Tensor:
    b, heads, h, w = reading.attention.shape[:4]
    weights = reading.attention.reshape(b, heads, h * w, h * w)
    value = reading.value.reshape(b, heads, -1, h * w)
    out = torch.from_numpy(np.einsum("bnqk,bndk->bqnd", weights, value))
    return layer.proj(out.flatten(2)).mT.unflatten(2, (h, w))


@recombined.register
def _(reading: CloAttentionReading, layer: Any, x: Tensor) -> Tensor:
    branches = [b for b in (reading.local_output, reading.global_output) if b is not None]
    return layer.proj(torch.from_numpy(np.concatenate(branches, 1)))


@recombined.register
def _(reading: DeformableAttentionReading, layer: Any, x: Tensor) -> Tensor:
    out = np.einsum("bnyxk,bnkd->bndyx", reading.attention, reading.values)
    y = torch.from_numpy(out).flatten(1, 2)
    if layer.position_conv is not None:
        y = y + layer.position_conv(layer.query(x))
    return layer.proj(y)


@recombined.register
def _(reading: NeighborhoodAttentionReading, layer: Any, x: Tensor) -> Tensor:
    side, (h, w) = layer.kernel_size, reading.size
    values = torch.from_numpy(reading.values)
    start_y, start_x = (
        (torch.arange(n) - side // 2).clamp(0, padded - side)
        for n, padded in zip((h, w), values.shape[1:3], strict=True)
    )
    steps = torch.arange(side)
    rows, columns = start_y[:, None] + steps, start_x[:, None] + steps
    near = values[:, rows[:, None, :, None], columns[None, :, None, :]].flatten(3, 4)
    out = torch.einsum("bnyxk,byxknd->byxnd", torch.from_numpy(reading.attention), near)
    return layer.proj(out.flatten(3)).permute(0, 3, 1, 2)


@recombined.register
def _(reading: WindowAttentionReading, layer: Any, x: Tensor) -> Tensor:
    b, rows, columns, heads, d = reading.values.shape
    side, shift = reading.side, reading.shift
    rolled = np.roll(reading.values, (-shift, -shift), (1, 2))
    tiles = rolled.reshape(b, rows // side, side, columns // side, side, heads, d)
    tiles = tiles.transpose(0, 1, 3, 5, 2, 4, 6).reshape(b, -1, heads, side**2, d)
    out = (reading.attention @ tiles).reshape(
        b, rows // side, columns // side, heads, side, side, d
    )
    out = out.transpose(0, 1, 4, 2, 5, 3, 6).reshape(b, rows, columns, heads * d)
    out = np.roll(out, (shift, shift), (1, 2))[:, : x.shape[2], : x.shape[3]]
    return layer.proj(torch.from_numpy(out.copy())).permute(0, 3, 1, 2)
