"""DAT and DAT++ literally: a displacement for every pair, neighbours gathered, windows cut out."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.errors import FovealError
from foveal.models.dat import DeformableAttention, OffsetNetwork
from foveal.models.dat_local import ConvMlp, NeighborhoodAttention, WindowAttention


def deformable_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Tensor,
    table: Tensor,
    query_y: Tensor,
    query_x: Tensor,
    corner_aligned: bool = False,
) -> Tensor:
    """As `foveal.kernels.deformable_attention`: the table sampled at every pair's displacement.

    Nothing is made of `corner_aligned`, the promise that the queries are evenly spaced.
    """
    b, heads, h, w, d = q.shape
    groups, n = positions.shape[1:3]
    grid = torch.stack(torch.meshgrid(query_y, query_x, indexing="ij"), -1).view(1, 1, h * w, 1, 2)
    displacement = (grid - positions[:, :, None]) / 2
    bias = F.grid_sample(
        table.to(positions.dtype)
        .view(1, groups, heads // groups, *table.shape[1:])
        .expand(b, -1, -1, -1, -1)
        .flatten(0, 1),
        displacement.flatten(0, 1).flip(-1),
        mode="bilinear",
        align_corners=True,
    )
    logits = q.flatten(2, 3) @ k.transpose(-2, -1) * d**-0.5
    weights = (logits + bias.view(b, heads, h * w, n).to(q.dtype)).softmax(-1)
    return (weights @ v).view(b, heads, h, w, d)


def offsets_of(network: OffsetNetwork, query: Tensor) -> Tensor:
    """(b·g hk wk 2): the network run on every group of channels as if it were a sample."""
    grouped = query.contiguous().view(-1, query.shape[1] // network.num_groups, *query.shape[2:])
    missing = [max(network.least - side, 0) for side in grouped.shape[2:]]
    hidden = network.depthwise(F.pad(grouped, (0, missing[1], 0, missing[0])))
    hidden = network.norm(hidden.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
    return network.pointwise(F.gelu(hidden)).permute(0, 2, 3, 1)


def positions_of(self: DeformableAttention, query: Tensor) -> Tensor:
    """(b·g hk wk 2): references moved by the offsets, as (y, x)."""
    assert self.offset_network is not None
    offset = offsets_of(self.offset_network, query)
    if query.dtype in (torch.bfloat16, torch.float16):
        offset = offset.float()
    sides = offset.shape[1:3]
    over = [max(side - 1, 1) if self.corner_aligned else side for side in sides]
    axes = [
        (2 * torch.arange(side, dtype=offset.dtype, device=offset.device) + 1) / o - 1
        for side, o in zip(sides, over, strict=True)
    ]
    reference = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    if self.offset_range_factor >= 0:
        reach = offset.new_tensor([self.offset_range_factor / o for o in over])
        return reference + offset.tanh() * reach
    moved = reference + offset
    return moved.clamp(-1, 1) if self.corner_aligned else moved.tanh()


def _query_axis(side: int, like: Tensor, *, corner_aligned: bool) -> Tensor:
    index = torch.arange(side, dtype=like.dtype, device=like.device)
    if corner_aligned:
        return (2 * index - (side - 1)) / max(side - 1, 1)
    return (2 * index + 1) / side - 1


def deformable_forward(self: DeformableAttention, x: Tensor) -> Tensor:
    """`DeformableAttention.forward`."""
    if self.offset_network is None or self.position_bias.form != "table":
        raise FovealError(
            "The naive deformable attention has offsets and a table of biases, as the published "
            "networks do; create the model with use_offsets=True and position_bias='table'."
        )
    b, c, h, w = x.shape
    query = self.query(x)
    position = positions_of(self, query)
    grouped = x.contiguous().view(position.shape[0], -1, h, w)
    # In bfloat16 positions would be a tenth of a cell off, so the map is sampled in theirs.
    grouped = grouped.to(position.dtype)
    sampled = F.grid_sample(grouped, position.flip(-1), mode="bilinear", align_corners=True)
    sampled = sampled.to(x.dtype).view(b, c, 1, -1)
    query, key, value = (
        t.reshape(b, self.num_heads, c // self.num_heads, -1).transpose(2, 3)
        for t in (query, self.key(sampled), self.value(sampled))
    )
    query_y, query_x = (
        _query_axis(side, position, corner_aligned=self.corner_aligned) for side in (h, w)
    )
    out = deformable_attention(
        query.unflatten(2, (h, w)),
        key,
        value,
        position.view(b, self.num_groups, -1, 2),
        self.position_bias.table,
        query_y,
        query_x,
    )
    return self.proj(out.permute(0, 1, 4, 2, 3).reshape(b, c, h, w))


@lru_cache(maxsize=64)
def neighbors(size: int, kernel: int, device: torch.device) -> Tensor:
    """(size kernel): the positions of each neighbourhood along one axis, pushed inward."""
    with torch.inference_mode(False):
        start = (torch.arange(size, device=device) - kernel // 2).clamp(0, size - kernel)
        return start[:, None] + torch.arange(kernel, device=device)


def neighborhood_attention(
    q: Tensor, k: Tensor, v: Tensor, position_bias: Tensor, size: tuple[int, int], kernel: int
) -> Tensor:
    """As `foveal.kernels.neighborhood_attention`: every query's keys and values gathered."""
    b, h, w, heads, d = q.shape
    device = q.device
    rows, columns = neighbors(h, kernel, device), neighbors(w, kernel, device)
    at = (rows[:, None, :, None] * w + columns[None, :, None, :]).flatten()
    near_key, near_value = (
        t.reshape(b, h * w, heads, d)[:, at].view(b, h, w, kernel**2, heads, d) for t in (k, v)
    )
    dy = rows - torch.arange(h, device=device)[:, None] + kernel - 1
    dx = columns - torch.arange(w, device=device)[:, None] + kernel - 1
    bias = position_bias.to(q.dtype)[:, dy[:, None, :, None], dx[None, :, None, :]].flatten(3)
    near_key = near_key.permute(0, 1, 2, 4, 5, 3)
    logits = (q[..., None, :] @ near_key).squeeze(-2) * d**-0.5 + bias.permute(1, 2, 0, 3)
    out = logits.softmax(-1)[..., None, :] @ near_value.permute(0, 1, 2, 4, 3, 5)
    return out.squeeze(-2)[:, : size[0], : size[1]]


def neighborhood_forward(self: NeighborhoodAttention, x: Tensor) -> Tensor:
    """`NeighborhoodAttention.forward`."""
    h, w = x.shape[2:]
    missing = [max(self.kernel_size - side, 0) for side in (h, w)]
    tokens = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, missing[1], 0, missing[0]))
    q, k, v = self.qkv(tokens).unflatten(3, (3, self.num_heads, -1)).unbind(3)
    out = neighborhood_attention(q, k, v, self.relative_position_bias, (h, w), self.kernel_size)
    return self.proj(out.flatten(3)).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def window_index(side: int, device: torch.device) -> Tensor:
    """(side⁴): the row of the bias table for every pair of a window."""
    with torch.inference_mode(False):
        axis = torch.arange(side, device=device)
        y, x = (t.flatten() for t in torch.meshgrid(axis, axis, indexing="ij"))
        apart = torch.stack([y[:, None] - y, x[:, None] - x]) + side - 1
        return (apart[0] * (2 * side - 1) + apart[1]).flatten()


@lru_cache(maxsize=64)
def shift_mask(height: int, width: int, side: int, shift: int, device: torch.device) -> Tensor:
    """(windows t t): −100 between the regions that the roll has brought into one window."""
    with torch.inference_mode(False):
        region = torch.zeros(height, width, device=device)
        parts = (slice(0, -side), slice(-side, -shift), slice(-shift, None))
        for index, (rows, columns) in enumerate((r, c) for r in parts for c in parts):
            region[rows, columns] = index
        of_window = cut(region[None, :, :, None], side).squeeze(-1)
        return (of_window[:, None, :] != of_window[:, :, None]) * -100.0


def cut(x: Tensor, side: int) -> Tensor:
    """(b h w c) as (b·windows side² c)."""
    b, h, w, c = x.shape
    x = x.view(b, h // side, side, w // side, side, c)
    return x.transpose(2, 3).reshape(-1, side * side, c)


def window_forward(self: WindowAttention, x: Tensor) -> Tensor:
    """`WindowAttention.forward`."""
    b, c, h, w = x.shape
    side, shift, heads = self.window_size, self.shift, self.num_heads
    rows, columns = (-(-n // side) * side for n in (h, w))
    tokens = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, columns - w, 0, rows - h))
    if shift:
        tokens = tokens.roll((-shift, -shift), (1, 2))
    qkv = self.qkv(cut(tokens.contiguous(), side)).view(-1, side**2, 3, heads, c // heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    bias = self.relative_position_bias_table[window_index(side, x.device)]
    logits = query @ key.transpose(-2, -1) * (c // heads) ** -0.5
    logits = logits + bias.view(side**2, side**2, heads).permute(2, 0, 1)
    if shift:
        mask = shift_mask(rows, columns, side, shift, x.device).to(logits.dtype)
        logits = (logits.view(b, -1, *logits.shape[1:]) + mask[:, None]).flatten(0, 1)
    out = (logits.softmax(-1) @ value).transpose(1, 2).reshape(-1, side, side, c)
    out = self.proj(out).view(b, rows // side, columns // side, side, side, c)
    out = out.transpose(2, 3).reshape(b, rows, columns, c)
    if shift:
        out = out.roll((shift, shift), (1, 2))
    return out[:, :h, :w].permute(0, 3, 1, 2).contiguous()


def conv_mlp_forward(self: ConvMlp, x: Tensor) -> Tensor:
    """`ConvMlp.forward`."""
    x = self.fc1(x.contiguous())
    return self.fc2(F.gelu(x + self.depthwise(x)))


FORWARDS = {
    DeformableAttention: deformable_forward,
    NeighborhoodAttention: neighborhood_forward,
    WindowAttention: window_forward,
    ConvMlp: conv_mlp_forward,
}
