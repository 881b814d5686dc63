"""The first convolution of every network: is this an image batch that it can see?"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.errors import FovealError

MIN_SIDE = 32


class ImageConv2d(nn.Conv2d):
    """A convolution that refuses what is not an image batch, and lays the rest out channels-last.

    Raises:
        FovealError: not a floating-point (B, in_channels, H, W) tensor of the weights' dtype with
            H and W of at least 32.
    """

    def forward(self, input: Tensor) -> Float[Tensor, "b c h w"]:
        if not torch.compiler.is_compiling():
            check_image(input, self.in_channels, self.weight.dtype)
        return super().forward(input.contiguous(memory_format=torch.channels_last))


def check_image(image: Tensor, in_chans: int, dtype: torch.dtype) -> None:
    """Raise a FovealError that says what is wrong with `image`, if anything is."""
    expected = f"(batch, {in_chans}, height, width)"
    given = tuple(image.shape)
    if image.ndim != 4:
        raise FovealError(f"Expected an image batch {expected}, got shape {given}.")
    if not image.is_floating_point():
        raise FovealError(
            f"Expected floating-point pixels, got {image.dtype}; "
            "scale them to [0, 1], then normalise."
        )
    if image.dtype != dtype and not torch.is_autocast_enabled(image.device.type):
        raise FovealError(
            f"The image is {image.dtype} and the model {dtype}; convert one: image.to({dtype})."
        )
    if image.shape[1] != in_chans:
        raise FovealError(
            f"Expected {in_chans} channels, got {image.shape[1]} (shape {given}); "
            f"create the model with in_chans={image.shape[1]} to change that."
        )
    check_image_size((image.shape[2], image.shape[3]))


def check_image_size(size: tuple[int, int]) -> None:
    """Raise a FovealError unless both sides have at least 32 pixels."""
    if min(size) < MIN_SIDE:
        raise FovealError(
            f"Images need at least {MIN_SIDE} pixels a side, got {size[0]}x{size[1]}; "
            "resize or pad them."
        )
