"""CloFormer literally: channels-first throughout, softmax attention spelt out."""

import torch
from torch import Tensor
from torch.nn import functional as F

from foveal.models.cloformer import AttnConv, CloAttention, ConvFFN, PooledAttention


def local(branch: AttnConv, x: Tensor) -> Tensor:
    """The local branch: tanh(d^-½ · W₂ SiLU(W₁ (q ⊙ k))) ⊙ v."""
    query, key, value = branch.depthwise(branch.qkv(x)).chunk(3, dim=1)
    weights = branch.to_weights(query.mul(key)).mul(branch.scale)
    return torch.tanh(weights).mul(value)


def pooled(branch: PooledAttention, x: Tensor) -> Tensor:
    """The global branch: attention to the averages of windows."""
    b, _, h, w = x.shape
    heads, side = branch.num_heads, branch.window_size
    query = branch.q(x).reshape(b, heads, -1, h * w).transpose(2, 3).contiguous()
    if side > 1:
        x = F.avg_pool2d(x, side, ceil_mode=True, count_include_pad=False)
    key_value = branch.kv(x).reshape(b, 2, heads, -1, x.shape[2] * x.shape[3])
    key, value = key_value.transpose(3, 4).contiguous().unbind(1)
    weights = (query.shape[-1] ** -0.5 * (query @ key.transpose(2, 3))).softmax(-1)
    return (weights @ value).transpose(2, 3).reshape(b, -1, h, w)


def attention_forward(self: CloAttention, x: Tensor) -> Tensor:
    """`CloAttention.forward`."""
    x = x.contiguous()
    branches = [local(branch, x) for branch in self.local if isinstance(branch, AttnConv)]
    if self.pooled is not None:
        branches.append(pooled(self.pooled, x))
    return self.proj(torch.cat(branches, dim=1))


def conv_ffn_forward(self: ConvFFN, x: Tensor) -> Tensor:
    """`ConvFFN.forward`."""
    return self.fc2(self.depthwise(F.gelu(self.fc1(x.contiguous()))))


FORWARDS = {CloAttention: attention_forward, ConvFFN: conv_ffn_forward}
