"""The local parts of DAT and DAT++: windows, neighbourhoods, and depthwise convolutions."""

from functools import partial

import torch
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from foveal.errors import OptionError
from foveal.kernels import neighborhood_attention as neighborhood
from foveal.kernels import window_attention as windows
from foveal.kernels.depthwise_convolution import depthwise_convolution
from foveal.kernels.shapes import at_least, pad
from foveal.layers.block import Block


def resolve_heads(dim: int, num_heads: int | None) -> int:
    """`num_heads`, or about one head per 32 channels: the largest number that divides `dim`.

    Raises:
        OptionError: `num_heads` does not divide `dim`.
    """
    if num_heads is None:
        return next(heads for heads in range(max(1, dim // 32), 0, -1) if dim % heads == 0)
    if num_heads < 1 or dim % num_heads:
        raise OptionError(
            f"The channels are shared out evenly among the heads: {dim} channels do not split "
            f"into {num_heads} heads."
        )
    return num_heads


class WindowAttention(nn.Module):
    """Attention inside windows ('L'), or shifted windows ('S'), (B, C, H, W) → (B, C, H, W).

    The map is zero-padded to whole windows, and the padding takes part as keys. Any H and W.

    Args:
        dim: channels C, a multiple of the heads.
        num_heads: heads; by default about one per 32 channels.
        window_size: positions a side of a window.
        shift: move the windows by half their side, so that neighbouring windows exchange.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        window_size: int = 7,
        *,
        shift: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if window_size < 1:
            raise OptionError(f"window_size is at least 1, got {window_size}.")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = resolve_heads(dim, num_heads)
        self.window_size = window_size
        self.shift = (window_size + 1) // 2 if shift else 0
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        size = ((2 * window_size - 1) ** 2, self.num_heads)
        self.relative_position_bias_table = nn.Parameter(torch.empty(size, **dd))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.01)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        qkv, bias = self._steps(x)
        size = (x.shape[2], x.shape[3])
        out = windows.window_attention(qkv, bias, size, self.window_size, self.shift)
        return self.proj(out.flatten(3)).permute(0, 3, 1, 2)

    def _steps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """q, k, v of the padded map, (b h' w' 3 heads d), and the bias, (heads t t)."""
        side = self.window_size
        h, w = ((n + side - 1) // side * side for n in x.shape[2:])
        x = pad(x.permute(0, 2, 3, 1), h, w, side - 1)
        qkv = self.qkv(x).unflatten(3, (3, self.num_heads, -1))
        index = windows.relative_position_index(side, x.device)
        bias = self.relative_position_bias_table[index.flatten()].view(side**2, side**2, -1)
        return qkv, bias.permute(2, 0, 1)

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """What forward computes on the way.

        Returns:
            attention (b windows heads t t), of the padded map rolled by −shift; values
            (b h' w' heads d), of the padded map.
        """
        qkv, bias = self._steps(x)
        attention = windows.window_weights(qkv, bias, self.window_size, self.shift)
        return {"attention": attention, "values": qkv[:, :, :, 2]}


class NeighborhoodAttention(nn.Module):
    """Attention to the nearest positions ('N'), (B, C, H, W) → (B, C, H, W).

    At the border the neighbourhood is pushed inward. A map smaller than it is zero-padded, and the
    padding takes part as keys. Any H and W.

    Args:
        dim: channels C, a multiple of the heads.
        num_heads: heads; by default about one per 32 channels.
        kernel_size: positions a side of a neighbourhood, odd.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        kernel_size: int = 7,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise OptionError(f"A neighbourhood's kernel_size is odd, got {kernel_size}.")
        dd = {"device": device, "dtype": dtype}
        self.num_heads = resolve_heads(dim, num_heads)
        self.kernel_size = kernel_size
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        size = (self.num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1)
        self.relative_position_bias = nn.Parameter(torch.empty(size, **dd))
        nn.init.trunc_normal_(self.relative_position_bias, std=0.01)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        bias, size = self.relative_position_bias, (x.shape[2], x.shape[3])
        out = neighborhood.neighborhood_attention(*self._project(x), bias, size, self.kernel_size)
        return self.proj(out.flatten(3)).permute(0, 3, 1, 2)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v (b h' w' heads d) of the map, padded to the size of one neighbourhood."""
        h, w = (at_least(n, self.kernel_size) for n in x.shape[2:])
        x = pad(x.permute(0, 2, 3, 1), h, w, 2 * self.kernel_size - 2)
        return self.qkv(x).unflatten(3, (3, self.num_heads, -1)).unbind(3)

    def readings(self, x: Float[Tensor, "b c h w"]) -> dict[str, Tensor]:
        """What forward computes on the way.

        Returns:
            attention (b heads h w k²), over the neighbours in row-major order; values
            (b h' w' heads d), of the map padded to at least k a side.
        """
        h, w = x.shape[2:]
        q, k, v = self._project(x)
        attention = neighborhood.neighborhood_weights(
            q, k, self.relative_position_bias, self.kernel_size
        )
        return {"attention": attention[:, :, :h, :w], "values": v}


class ConvMlp(nn.Module):
    """The MLP of DAT++: `u = fc1 x; fc2(GELU(u + DW3 u))`, (B, C, H, W) → (B, C, H, W).

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
        dd = {"device": device, "dtype": dtype}
        hidden = int(dim * ratio)
        self.fc1 = nn.Conv2d(dim, hidden, 1, **dd)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **dd)
        self.fc2 = nn.Conv2d(hidden, dim, 1, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return self.fc2(_plus_depthwise(self.fc1(x), self.depthwise, "gelu"))


def _plus_depthwise(x: Tensor, depthwise: nn.Conv2d, activation: str = "none") -> Tensor:
    """act(x + DW x), (b c h w)."""
    filters = (depthwise.weight, depthwise.bias)
    cells = x.permute(0, 2, 3, 1)
    out = depthwise_convolution(cells, *filters, residual=True, activation=activation)
    return out.permute(0, 3, 1, 2)


class DATBlock(Block):
    """A token mixer, then a channel mixer; with `local_perception`, `x + DW3 x` before both.

    Args:
        dim: channels.
        mixer, channel_mixer, drop_path: as in `Block`.
        local_perception: whether the block begins with that convolution.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        channel_mixer: nn.Module,
        drop_path: float,
        *,
        local_perception: bool,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        dd = {"device": device, "dtype": dtype}
        norm = partial(LayerNorm2d, dim, eps=1e-5, **dd)
        super().__init__(mixer, channel_mixer, norm(), norm(), drop_path)
        self.local_perception: nn.Conv2d | None = None
        if local_perception:
            self.local_perception = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if self.local_perception is not None:
            x = _plus_depthwise(x, self.local_perception)
        return super().forward(x)
