"""The pre-norm residual block: a token mixer, then a channel mixer."""

from jaxtyping import Float
from timm.layers import DropPath
from torch import Tensor, nn


class Block(nn.Module):
    """`x + mixer(norm1 x)`, then `x + channel_mixer(norm2 x)`; (B, C, H, W) → (B, C, H, W).

    Args:
        mixer: exchanges information between positions.
        channel_mixer: exchanges information between channels.
        norm1, norm2: what each of them sees the map through.
        drop_path: probability that a sample skips a branch in training.
    """

    def __init__(
        self,
        mixer: nn.Module,
        channel_mixer: nn.Module,
        norm1: nn.Module,
        norm2: nn.Module,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1 = norm1
        self.mixer = mixer
        self.norm2 = norm2
        self.channel_mixer = channel_mixer
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        return x + self.drop_path(self.channel_mixer(self.norm2(x)))
