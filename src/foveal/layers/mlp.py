"""The multi-layer perceptron, position by position."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Mlp(nn.Module):
    """`fc2(GELU(fc1 x))` at every position, (B, C, H, W) → (B, C, H, W).

    Args:
        dim: channels C.
        ratio: hidden channels over C.
    """

    def __init__(
        self,
        dim: int,
        ratio: float = 4.0,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden, device=device, dtype=dtype)
        self.fc2 = nn.Linear(hidden, dim, device=device, dtype=dtype)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = x.permute(0, 2, 3, 1)
        return self.fc2(F.gelu(self.fc1(x))).permute(0, 3, 1, 2)
