"""One mixer in a network of your own: a small U-shaped one, with focal modulation at the bottom.

python examples/own_network.py
"""

import torch
from torch import Tensor, nn

from foveal.mixers import CloAttention, FocalModulation


class Bottleneck(nn.Module):
    """Halve the map, let two mixers look around, and restore its size."""

    def __init__(self, dim: int):
        super().__init__()
        self.down = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1)
        self.near = CloAttention(2 * dim, num_heads=8, group_split=(4, 4), kernel_sizes=(5,))
        self.far = FocalModulation(2 * dim, focal_level=3)
        self.up = nn.ConvTranspose2d(2 * dim, dim, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        y = y + self.near(y)
        y = y + self.far(y)
        return x + self.up(y)


if __name__ == "__main__":
    features = torch.randn(2, 32, 40, 56)
    print(tuple(Bottleneck(32)(features).shape))
