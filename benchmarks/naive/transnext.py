"""TransNeXt literally: the window unfolded, one position bias for every pair, one wide softmax."""

from functools import lru_cache
from math import isqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.errors import FovealError
from foveal.kernels.aggregated_attention import AttentionTerms
from foveal.kernels.position_bias import LogSpacedBias
from foveal.models.transnext import AggregatedAttention, ConvGLU, FullAttention
from foveal.models.transnext_bias import LogSpacedPositionBias


def aggregated_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    terms: AttentionTerms,
    bias: LogSpacedBias,
) -> Tensor:
    """As `foveal.kernels.aggregated_attention`, in query's dtype throughout."""
    b, h, w, n, d = query.shape
    cells = terms.local_bias.shape[-1]
    window = isqrt(cells)
    pooled = (pooled_key.shape[1], pooled_key.shape[2])
    terms = AttentionTerms(*(term.to(query.dtype) for term in terms))
    inside = window_inside(h, w, window, query.device)
    num_keys = inside.sum(-1) + pooled[0] * pooled[1]
    scale = terms.scale[:, None] * num_keys.to(query.dtype).log()

    unit = F.normalize(query, dim=-1).flatten(1, 2).transpose(1, 2)
    scaled = (unit + terms.query_embedding[:, None]) * scale[..., None]
    near_key = unfolded(F.normalize(key, dim=-1), window)
    near_value = unfolded(value, window)
    near = (scaled[..., None, :] @ near_key).squeeze(-2) + terms.local_bias[:, None]
    near = near.masked_fill(~inside, float("-inf"))
    far_key = F.normalize(pooled_key, dim=-1).flatten(1, 2).permute(0, 2, 3, 1)
    far = scaled @ far_key + position_bias(bias, (h, w), pooled).to(query.dtype)

    near, far = torch.cat([near, far], -1).softmax(-1).split([cells, far.shape[-1]], -1)
    near = near + unit @ terms.tokens + terms.token_bias[:, None]
    out = (near[..., None, :] @ near_value.transpose(-2, -1)).squeeze(-2)
    out = out + far @ pooled_value.flatten(1, 2).transpose(1, 2)
    return out.transpose(1, 2).reshape(b, h, w, n, d)


def unfolded(x: Tensor, window: int) -> Tensor:
    """(b h w n d) with every position's window: (b n h·w d window²)."""
    b, h, w, n, d = x.shape
    cells = F.unfold(x.flatten(3).permute(0, 3, 1, 2), window, padding=window // 2)
    return cells.reshape(b, n, d, window**2, h * w).permute(0, 1, 4, 2, 3)


@lru_cache(maxsize=64)
def window_inside(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """(h·w window²): whether a position's window cell is on the map."""
    with torch.inference_mode(False):
        ones = torch.ones(1, 1, height, width, device=device)
        return F.unfold(ones, window, padding=window // 2)[0].T > 0


def position_bias(bias: LogSpacedBias, size: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """(n h·w hp·wp): the MLP at every distinct displacement, then one look-up a pair."""
    mlp = bias.mlp
    dtype, device = mlp.weight1.dtype, mlp.weight1.device
    table, index = displacements(size, cells, bias.pretrain_side, dtype, device)
    values = F.linear(F.relu(F.linear(table, mlp.weight1, mlp.bias1)), mlp.weight2, mlp.bias2)
    return values.T[:, index].view(-1, size[0] * size[1], cells[0] * cells[1])


@lru_cache(maxsize=64)
def displacements(
    size: tuple[int, int],
    cells: tuple[int, int],
    pretrain_side: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """The distinct log-spaced displacements (u 2) and which of them each pair has (h·w·hp·wp)."""
    with torch.inference_mode(False):
        rows, columns = (_from_cells(n, m, device) for n, m in zip(size, cells, strict=True))
        pair = torch.broadcast_tensors(rows[:, None, :, None], columns[None, :, None, :])
        distinct, index = torch.stack(pair, -1).view(-1, 2).unique(dim=0, return_inverse=True)
        scaled = distinct * (8 / max(pretrain_side - 1, 1))
        return (scaled.sign() * (scaled.abs() + 1).log2() / 3).to(dtype), index


def _from_cells(size: int, cells: int, device: torch.device) -> Tensor:
    """(size cells): position minus the mean position of a pooled cell."""
    position = torch.arange(size, dtype=torch.float64, device=device)
    return position[:, None] - F.adaptive_avg_pool1d(position[None], cells)


def _bias_of(module: LogSpacedPositionBias) -> LogSpacedBias:
    if module.mode != "extrapolate":
        raise FovealError(
            f"The naive TransNeXt extrapolates its position bias, got {module.mode!r}; create the "
            "model with position_bias='extrapolate'."
        )
    return module(1)


def aggregated_forward(self: AggregatedAttention, x: Tensor) -> Tensor:
    """`AggregatedAttention.forward`."""
    heads = (self.num_heads, -1)
    height, width = x.shape[2:]
    rows, columns = (self.pool_size or max(n // self.sr_ratio, 1) for n in (height, width))
    tokens = x.permute(0, 2, 3, 1)
    near = self.kv(tokens).chunk(2, -1)
    pooled = F.adaptive_avg_pool2d(F.gelu(self.sr(x.contiguous())), (rows, columns))
    pooled = self.norm(pooled.permute(0, 2, 3, 1).contiguous())
    far = self.kv(pooled).chunk(2, -1)
    query, key, value, pooled_key, pooled_value = (
        t.unflatten(-1, heads) for t in (self.q(tokens), *near, *far)
    )
    terms = AttentionTerms(
        self.query_embedding.squeeze(1),
        F.softplus(self.temperature.flatten()),
        self.relative_pos_bias_local,
        self.learnable_tokens,
        self.learnable_bias.squeeze(1),
    )
    bias = _bias_of(self.position_bias)
    out = aggregated_attention(query, key, value, pooled_key, pooled_value, terms, bias)
    return self.proj(out.flatten(3)).permute(0, 3, 1, 2)


def full_forward(self: FullAttention, x: Tensor) -> Tensor:
    """`FullAttention.forward`."""
    b, c, h, w = x.shape
    qkv = self.qkv(x.permute(0, 2, 3, 1)).view(b, h * w, 3, self.num_heads, -1)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    num_keys = torch.tensor(h * w, dtype=x.dtype, device=x.device)
    scale = F.softplus(self.temperature) * num_keys.log()
    query = (F.normalize(query, dim=-1) + self.query_embedding) * scale
    bias = position_bias(_bias_of(self.position_bias), (h, w), (h, w)).to(x.dtype)
    weights = (query @ F.normalize(key, dim=-1).transpose(-2, -1) + bias).softmax(-1)
    out = (weights @ value).transpose(1, 2).reshape(b, h, w, c)
    return self.proj(out).permute(0, 3, 1, 2)


def conv_glu_forward(self: ConvGLU, x: Tensor) -> Tensor:
    """`ConvGLU.forward`."""
    a, value = self.fc1(x.permute(0, 2, 3, 1)).chunk(2, -1)
    a = self.dwconv(a.permute(0, 3, 1, 2).contiguous())
    gate = F.gelu(a.permute(0, 2, 3, 1).contiguous())
    return self.fc2(gate * value).permute(0, 3, 1, 2)


FORWARDS = {
    AggregatedAttention: aggregated_forward,
    FullAttention: full_forward,
    ConvGLU: conv_glu_forward,
}
