"""Aggregated attention in plain PyTorch: the window by shifted slices, rows in chunks."""

from math import isqrt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.chunks import row_chunks
from foveal.kernels.position_bias import BiasMLP, LogSpacedBias, PositionBias
from foveal.kernels.precision import at_least_float32, full_precision
from foveal.kernels.tables import table


class AttentionTerms(NamedTuple):
    """What aggregated attention learns beside its projections, per head, k2 = window cells."""

    query_embedding: Float[Tensor, "n d"]
    scale: Float[Tensor, " n"]
    local_bias: Float[Tensor, "n k2"]
    tokens: Float[Tensor, "n d k2"]
    token_bias: Float[Tensor, "n k2"]


class Weights(NamedTuple):
    """Local and pooled weights sum to 1 together; positional ones are added to the local."""

    local: Float[Tensor, "b n h w k2"]
    positional: Float[Tensor, "b n h w k2"]
    pooled: Float[Tensor, "b n h w hp wp"]


class _Keys(NamedTuple):
    """Normalised queries and keys, and which window cells are inside the map."""

    query: Float[Tensor, "b h w n d"]
    scaled_query: Float[Tensor, "b h w n d"]
    padded_key: Float[Tensor, "b h+k-1 w+k-1 n d"]
    pooled_key: Float[Tensor, "b hp wp n d"]
    inside: Bool[Tensor, "h w k2"]


class _Softmax(NamedTuple):
    """The two parts of the one softmax."""

    local: Float[Tensor, "b n rows w k2"]
    pooled: Float[Tensor, "b n rows w cells"]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    terms: AttentionTerms,
    bias: LogSpacedBias,
) -> Tensor:
    """`foveal.kernels.aggregated_attention.aggregated_attention`, chunk by chunk of rows."""
    b, height, width, heads, _ = query.shape
    window = isqrt(terms.local_bias.shape[-1])
    cells = terms.local_bias.shape[-1] + pooled_key.shape[1] * pooled_key.shape[2]
    with full_precision(query):
        position_bias = bias.at(query.shape[1:3], pooled_key.shape[1:3])
        keys = _prepare(query, key, pooled_key, terms)
        padded_value = _pad(at_least_float32(value), window)
        pooled_value = at_least_float32(pooled_value)
        row_bytes = b * heads * width * cells * keys.query.element_size()
        rows = [
            _aggregate(
                _softmax(keys, terms, position_bias, start, stop),
                _positional(keys, terms, start, stop),
                padded_value[:, start : stop + window - 1],
                pooled_value,
            ).to(query.dtype)
            for start, stop in row_chunks(height, row_bytes)
        ]
    return rows[0] if len(rows) == 1 else torch.cat(rows, 1)


def attention_of_tensors(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    query_embedding: Tensor,
    scale: Tensor,
    local_bias: Tensor,
    tokens: Tensor,
    token_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    pretrain_side: int,
    pretrain_cells: int | None,
) -> Tensor:
    """`attention`, with what is learned one by one."""
    terms = AttentionTerms(query_embedding, scale, local_bias, tokens, token_bias)
    bias = LogSpacedBias(BiasMLP(weight1, bias1, weight2, bias2), pretrain_side, pretrain_cells)
    return attention(query, key, value, pooled_key, pooled_value, terms, bias)


def weights(
    query: Tensor,
    key: Tensor,
    pooled_key: Tensor,
    terms: AttentionTerms,
    bias: LogSpacedBias,
) -> Weights:
    """`foveal.kernels.aggregated_attention.aggregated_attention_weights`."""
    with full_precision(query):
        position_bias = bias.at(query.shape[1:3], pooled_key.shape[1:3])
        keys = _prepare(query, key, pooled_key, terms)
        height = query.shape[1]
        softmax = _softmax(keys, terms, position_bias, 0, height)
        positional = _positional(keys, terms, 0, height)
        cells = pooled_key.shape[1:3]
        return Weights(
            softmax.local,
            positional.permute(0, 3, 1, 2, 4),
            softmax.pooled.unflatten(-1, (cells[0], cells[1])),
        )


def _prepare(query: Tensor, key: Tensor, pooled_key: Tensor, terms: AttentionTerms) -> _Keys:
    """q̂, Q and k̂."""
    _, height, width, _, _ = query.shape
    window = isqrt(terms.local_bias.shape[-1])
    query, key, pooled_key = (
        F.normalize(at_least_float32(t), dim=-1) for t in (query, key, pooled_key)
    )
    inside = cells_inside(height, width, window, query.device)
    seen = inside.sum(-1) + pooled_key.shape[1] * pooled_key.shape[2]
    scale = terms.scale * seen.to(query.dtype).log()[..., None]
    scaled_query = (query + terms.query_embedding) * scale[..., None]
    return _Keys(query, scaled_query, _pad(key, window), pooled_key, inside)


def _softmax(
    keys: _Keys, terms: AttentionTerms, position_bias: PositionBias, start: int, stop: int
) -> _Softmax:
    """The softmax of the queries in rows `start` … `stop` − 1."""
    query = keys.scaled_query[:, start:stop]
    b, rows, width, heads, _ = query.shape
    window = isqrt(terms.local_bias.shape[-1])
    near = _shifted(keys.padded_key[:, start : stop + window - 1], window, rows, width)
    local = torch.stack([(query * key).sum(-1) for key in near], -1) + terms.local_bias
    local = local.masked_fill(~keys.inside[start:stop, :, None], float("-inf"))
    pooled = _by_head(query) @ _by_head(keys.pooled_key).mT
    pooled = pooled.view(b, heads, rows, width, -1)
    pooled = pooled + position_bias.of_rows(start, stop).flatten(3)
    logits = torch.cat((local.permute(0, 3, 1, 2, 4), pooled), -1)
    return _Softmax(*logits.softmax(-1).split((window**2, pooled.shape[-1]), -1))


def _positional(keys: _Keys, terms: AttentionTerms, start: int, stop: int) -> Tensor:
    """q̂·T + t_b of the queries in rows `start` … `stop` − 1, (b rows w n k2)."""
    query = keys.query[:, start:stop]
    return torch.einsum("bhwnd,ndk->bhwnk", query, terms.tokens) + terms.token_bias


def _aggregate(
    softmax: _Softmax, positional: Tensor, padded_value: Tensor, pooled_value: Tensor
) -> Tensor:
    """The weighted sum of the window's and the pooled values, (b rows w n d)."""
    b, heads, rows, width, _ = softmax.pooled.shape
    window = isqrt(positional.shape[-1])
    pooled = softmax.pooled.flatten(2, 3) @ _by_head(pooled_value)
    out = pooled.view(b, heads, rows, width, -1).permute(0, 2, 3, 1, 4)
    local = softmax.local.permute(0, 2, 3, 1, 4) + positional
    for cell, value in enumerate(_shifted(padded_value, window, rows, width)):
        out = torch.addcmul(out, local[..., cell, None], value)
    return out


def _by_head(x: Tensor) -> Tensor:
    """(b h w n d) as (b n h·w d)."""
    return x.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _pad(x: Tensor, window: int) -> Tensor:
    """(b h w n d) with zeros around the map, as far as a window reaches."""
    reach = window // 2
    return F.pad(x, (0, 0, 0, 0, reach, reach, reach, reach))


def _shifted(padded: Tensor, window: int, rows: int, width: int) -> list[Tensor]:
    """What every position has in each window cell: views of the padded map."""
    return [
        padded[:, dy : dy + rows, dx : dx + width] for dy in range(window) for dx in range(window)
    ]


@table
def cells_inside(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """(height, width, window²): whether a position's window cell is inside the map."""
    offset = torch.arange(window, device=device) - window // 2
    row = torch.arange(height, device=device)[:, None] + offset
    column = torch.arange(width, device=device)[:, None] + offset
    row_inside = (row >= 0) & (row < height)
    column_inside = (column >= 0) & (column < width)
    return (row_inside[:, None, :, None] & column_inside[None, :, None, :]).flatten(2)
