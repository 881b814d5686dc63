"""EfficientMod literally: the context repeated in memory, copies around its convolution."""

from torch import Tensor
from torch.nn import functional as F

from foveal.models.efficientmod import Attention, EfficientModulation


def gated_product(features: Tensor, gate: Tensor, activation: str = "none") -> Tensor:
    """act(features) ⊙ gate, the gate repeated in memory; as `foveal.kernels.gated_product`."""
    features = F.gelu(features) if activation == "gelu" else features
    return features * gate.repeat(1, 1, 1, features.shape[-1] // gate.shape[-1])


def modulation_forward(self: EfficientModulation, x: Tensor) -> Tensor:
    """`EfficientModulation.forward`."""
    x = x.permute(0, 2, 3, 1).contiguous()
    gathered = F.gelu(self.depthwise(self.f(x).permute(0, 3, 1, 2).contiguous()))
    context = self.g(gathered.permute(0, 2, 3, 1).contiguous())
    activation = "none" if self.ratio == 1 else "gelu"
    return self.fc2(gated_product(self.fc1(x), context, activation)).permute(0, 3, 1, 2)


def attention_forward(self: Attention, x: Tensor) -> Tensor:
    """`Attention.forward`."""
    b, _, h, w = x.shape
    qkv = self.qkv(x.permute(0, 2, 3, 1).reshape(b, h * w, -1))
    qkv = qkv.reshape(b, h * w, 3, self.num_heads, self.head_dim)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    weights = (query @ key.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
    out = self.proj((weights @ value).transpose(1, 2).reshape(b, h, w, -1))
    return out.permute(0, 3, 1, 2)


FORWARDS = {EfficientModulation: modulation_forward, Attention: attention_forward}
