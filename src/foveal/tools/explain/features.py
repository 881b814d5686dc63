"""The last feature map of any image model, and looking into a model without disturbing it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf, log
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from foveal.errors import FovealError

# A class token and four registers, as in DINOv2.
_MOST_PREFIX_TOKENS = 5

# Of networks that do not say theirs: the largest that is usual.
_USUAL_STRIDE = 32


def last_map(model: nn.Module, images: Float[Tensor, "b i y x"]) -> Float[Tensor, "b c h w"]:
    """The last feature map of a network, channels first.

    Networks of timm and Foveal give it through `forward_features`, after their last norm; it may
    be (b c h w), (b h w c) as Swin's, or tokens (b n c) as a ViT's, whose prefix tokens are
    dropped. Any other module gives it as its output, the last of a list of outputs, or the
    output's `last_hidden_state`. Gradients flow, and the model runs in the mode that it is in.

    Args:
        model: the network, on the device and of the dtype of the images.
        images: as the network takes them.

    Raises:
        FovealError: what comes out is no map of features.
    """
    features = getattr(model, "forward_features", model)(images)
    features = getattr(features, "last_hidden_state", features)
    if isinstance(features, list | tuple) and features:
        features = features[-1]
    return as_map(
        features,
        image_size=image_size(images),
        channels=getattr(model, "num_features", None),
        num_prefix_tokens=num_prefix_tokens(model),
        stride=last_feature(model).get("reduction"),
        source=f"The last layer of {type(model).__name__}",
        remedy="give a model without its head, or a module around its layers, that returns one",
    )


def as_map(
    features: Any,
    *,
    image_size: tuple[int, int],
    channels: int | None = None,
    num_prefix_tokens: int | None = None,
    stride: int | None = None,
    source: str = "The layer",
    remedy: str = "give such features",
) -> Shaped[Tensor, "b c h w"]:
    """Features in any of the common layouts as a map with channels first.

    Args:
        features: (b c h w), (b h w c) or (b n c).
        image_size: height and width of the image, whose proportions the map has.
        channels: of the features, where known; else the proportions tell which axis they are.
        num_prefix_tokens: tokens before those of the patches, such as the class token; where
            that leaves no grid in the image's proportions, fewer, as some networks add them late;
            None for the fewest that leave one.
        stride: of the network in pixels, where known; an image of two strides or more has more
            than one patch, and a single token is none.
        source: what gave the features, for the error.
        remedy: what can be done about it, for the error.

    Raises:
        FovealError: the features are in none of these layouts.
    """
    if isinstance(features, Tensor) and features.ndim == 4:
        return (
            features.permute(0, 3, 1, 2)
            if _ends_in_channels(features, image_size, channels)
            else features
        )
    if isinstance(features, Tensor) and features.ndim == 3:
        several = max(image_size) >= 2 * (stride or _USUAL_STRIDE)
        for dropped in _prefixes(num_prefix_tokens):
            tokens = features[:, dropped:]
            grid = _patch_grid(tokens.shape[1], image_size)
            if grid is not None and not (several and grid == (1, 1)):
                return tokens.transpose(1, 2).unflatten(2, grid)
    raise FovealError(
        f"{source} gives {_described(features)} for an image of {image_size[0]} × {image_size[1]} "
        "pixels, but a map of features is (b, c, h, w), (b, h, w, c) or (b, tokens, c): "
        f"{remedy}."
    )


def image_size(images: Tensor) -> tuple[int, int]:
    """Height and width of a batch of images (b c h w).

    Raises:
        FovealError: it is no batch of images.
    """
    if images.ndim != 4 or 0 in images.shape:
        raise FovealError(
            f"Images are a batch (b, channels, height, width), got shape {tuple(images.shape)}."
        )
    return images.shape[2], images.shape[3]


def num_prefix_tokens(model: nn.Module) -> int | None:
    """Tokens that a ViT puts before those of the patches; None where the model does not say."""
    number = getattr(model, "num_prefix_tokens", None)
    return number if isinstance(number, int) else None


def last_feature(model: nn.Module) -> dict[str, Any]:
    """The last entry of timm's `feature_info`: module, channels and stride; empty without one."""
    info = getattr(model, "feature_info", None)
    entries = getattr(info, "info", info)
    entries = list(entries.values()) if isinstance(entries, dict) else entries
    return dict(entries[-1]) if entries else {}


def is_patch_grid(num_tokens: int, image_size: tuple[int, int]) -> bool:
    """Whether so many tokens can be the patches of such an image, with no token beside them."""
    return _patch_grid(num_tokens, image_size) is not None


def placed_as(model: nn.Module, images: Tensor) -> Tensor:
    """The images on the device and of the dtype of the model's first parameter."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    return images if like is None else images.to(like.device, like.dtype)


def require_gradient(value: Tensor, model: nn.Module) -> None:
    """Raise a FovealError unless gradients come from the value back to the model's input."""
    if not value.requires_grad:
        raise FovealError(
            f"No gradient comes through {type(model).__name__} to its image: it computes detached "
            "or without gradients; give the network itself, not an exported one."
        )


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and gradients enabled for the block; then all as before.

    No parameter collects a gradient meanwhile, so `.grad` stays what it was; gradients with
    respect to the input flow all the same, also inside `torch.no_grad` and `inference_mode`.
    """
    modes = {module: module.training for module in model.modules()}
    frozen = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        model.eval()
        model.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, requires_grad in frozen.items():
            parameter.requires_grad_(requires_grad)


def _prefixes(declared: int | None) -> Sequence[int]:
    """How many prefix tokens there may be, the likeliest first."""
    if declared is None:
        return range(_MOST_PREFIX_TOKENS + 1)
    return [declared, *range(declared)]


def _described(features: Any) -> str:
    if not isinstance(features, Tensor):
        return f"a {type(features).__name__}"
    shape = f"shape {tuple(features.shape)}"
    is_token = features.ndim == 3 and features.shape[1] == 1
    return f"a single token, {shape}, as a class token is," if is_token else shape


def _ends_in_channels(features: Tensor, image_size: tuple[int, int], channels: int | None) -> bool:
    """Whether a 4-D tensor is (b h w c): by the number of channels, else by the proportions."""
    _, first, middle, last = features.shape
    if channels in (first, last) and first != last:
        return last == channels
    return not _fits(middle, last, image_size) and _fits(first, middle, image_size)


def _patch_grid(num_tokens: int, image_size: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of so many patches, in the image's proportions; None if there are none."""
    height, width = image_size
    best, miss = None, inf
    for rows in range(1, num_tokens + 1):
        columns = num_tokens // rows
        off = abs(log(rows / columns * width / height))
        if rows * columns == num_tokens and off < miss and _fits(rows, columns, image_size):
            best, miss = (rows, columns), off
    return best


def _fits(rows: int, columns: int, image_size: tuple[int, int]) -> bool:
    """Whether square patches of one side give this grid, the last ones all cut off or padded."""

    def sides(cells: int, pixels: int) -> tuple[float, float, float]:
        """The least side when cut off, that at which nothing is left over, the most if padded."""
        return pixels / (cells + 1), pixels / cells, pixels / (cells - 1) if cells > 1 else inf

    (low, even, high), (left, level, right) = (
        sides(cells, pixels) for cells, pixels in zip((rows, columns), image_size, strict=True)
    )
    return max(low, left) < min(even, level) or max(even, level) < min(high, right)
