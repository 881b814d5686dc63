"""FocalNet literally: everything between the linear layers is channels-first and copied to it."""

from torch import Tensor, nn
from torch.nn import functional as F

from foveal.models.focalnet import FocalModulation


def aggregation(
    context: Tensor,
    gates: Tensor,
    *weights: Tensor,
    dilation: int = 1,
    normalize: bool = False,
) -> Tensor:
    """Σ g^l ⊙ z^l over levels and global context, (b c h w), from (b c h w) and (b L+1 h w)."""
    modulator = 0
    for index, weight in enumerate(weights):
        padding = dilation * (weight.shape[-1] // 2)
        context = F.conv2d(context, weight, None, 1, padding, dilation, weight.shape[0])
        context = F.gelu(context)
        modulator = modulator + context * gates[:, index : index + 1]
    everywhere = F.gelu(context.mean(2, keepdim=True).mean(3, keepdim=True))
    modulator = modulator + everywhere * gates[:, len(weights) :]
    return modulator / (len(weights) + 1) if normalize else modulator


def modulation_forward(self: FocalModulation, x: Tensor) -> Tensor:
    """`FocalModulation.forward`."""
    widths = (self.dim, self.dim, self.focal_level + 1)
    features = self.f(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
    query, context, gates = features.split(widths, dim=1)
    levels = [level for level in self.focal_layers if isinstance(level, nn.Conv2d)]
    modulator = aggregation(
        context,
        gates,
        *(level.weight for level in levels),
        dilation=levels[0].dilation[0] if levels else 1,
        normalize=self.normalize_modulator,
    )
    out = (query * self.h(modulator)).permute(0, 2, 3, 1).contiguous()
    return self.proj(self.norm(out)).permute(0, 3, 1, 2)


FORWARDS = {FocalModulation: modulation_forward}
