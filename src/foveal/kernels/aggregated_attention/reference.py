"""Aggregated attention in plain PyTorch: the window by shifted slices, rows in chunks."""

from math import isqrt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from foveal.kernels.chunks import row_chunks
from foveal.kernels.position_bias import PositionBias
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


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    terms: AttentionTerms,
    position_bias: PositionBias,
) -> Tensor:
    """`foveal.kernels.aggregated_attention.aggregated_attention`, chunk by chunk of rows."""
    b, height, width, heads, _ = query.shape
    window = isqrt(terms.local_bias.shape[-1])
    cells = terms.local_bias.shape[-1] + pooled_key.shape[1] * pooled_key.shape[2]
    with full_precision(query):
        keys = _prepare(query, key, pooled_key, terms)
        padded_value = _pad(at_least_float32(value), window)
        pooled_value = at_least_float32(pooled_value)
        row_bytes = b * heads * width * cells * keys.query.element_size()
        rows = [
            _aggregate(
                _weights_of_rows(keys, terms, position_bias, start, stop),
                padded_value[:, start : stop + window - 1],
                pooled_value,
                window,
            ).to(query.dtype)
            for start, stop in row_chunks(height, row_bytes)
        ]
    return rows[0] if len(rows) == 1 else torch.cat(rows, 1)


def weights(
    query: Tensor,
    key: Tensor,
    pooled_key: Tensor,
    terms: AttentionTerms,
    position_bias: PositionBias,
) -> Weights:
    """`foveal.kernels.aggregated_attention.aggregated_attention_weights`."""
    with full_precision(query):
        keys = _prepare(query, key, pooled_key, terms)
        return _weights_of_rows(keys, terms, position_bias, 0, query.shape[1])


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


def _weights_of_rows(
    keys: _Keys, terms: AttentionTerms, position_bias: PositionBias, start: int, stop: int
) -> Weights:
    """The weights of the queries in rows `start` … `stop` − 1."""
    query, scaled = keys.query[:, start:stop], keys.scaled_query[:, start:stop]
    b, rows, width, heads, _ = query.shape
    pooled_rows, pooled_columns = keys.pooled_key.shape[1:3]
    cells = terms.local_bias.shape[-1]
    window = isqrt(cells)
    near = _shifted(keys.padded_key[:, start : stop + window - 1], window, rows, width)
    local = torch.stack([(scaled * key).sum(-1) for key in near], -1).permute(0, 3, 1, 2, 4)
    local = local + terms.local_bias[:, None, None]
    local = local.masked_fill(~keys.inside[start:stop], float("-inf"))
    pooled = _by_head(scaled) @ _by_head(keys.pooled_key).mT
    pooled = pooled.view(b, heads, rows, width, pooled_rows, pooled_columns)
    pooled = pooled + position_bias.of_rows(start, stop)
    weights = torch.cat([local, pooled.flatten(4)], -1).softmax(-1)
    positional = _by_head(query) @ terms.tokens + terms.token_bias[:, None]
    return Weights(
        weights[..., :cells],
        positional.view(b, heads, rows, width, cells),
        weights[..., cells:].unflatten(-1, (pooled_rows, pooled_columns)),
    )


def _aggregate(weights: Weights, padded_value: Tensor, pooled_value: Tensor, window: int) -> Tensor:
    """The weighted sum of the window's and the pooled values, (b rows w n d)."""
    b, heads, rows, width, _ = weights.local.shape
    pooled = weights.pooled.flatten(4).flatten(2, 3) @ _by_head(pooled_value)
    out = pooled.view(b, heads, rows, width, -1).permute(0, 2, 3, 1, 4)
    local = (weights.local + weights.positional).permute(0, 2, 3, 1, 4)
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
