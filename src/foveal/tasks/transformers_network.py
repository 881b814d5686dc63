"""transformers' detectors and mask transformers on a pyramid of any backbone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import MissingExtraError, OptionError
from foveal.models.pyramid import Pyramid

# GroupNorm in the heads splits the channels into so many groups.
NORM_GROUPS = 32


def transformers() -> Any:
    """The library.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import transformers as library
    except ImportError as error:
        raise MissingExtraError("transformers", "dense") from error
    return library


class PlaceOfPyramid(nn.Module):
    """Stands for the backbone while a network is built, so that none of its weights is redrawn."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        self.channels = list(channels)

    @classmethod
    def _from_config(cls, config: Any, **_: Any) -> "PlaceOfPyramid":
        return cls(config.channels)


@cache
def _backbone_config() -> Any:
    """The class of configuration that makes transformers' AutoBackbone leave a place."""
    library = transformers()

    class PyramidConfig(library.PreTrainedConfig):
        """Names the maps' channels."""

        model_type = "foveal_pyramid"
        channels: list[int] | tuple[int, ...] = ()

    place: Any = PlaceOfPyramid
    place.config_class = PyramidConfig
    library.AutoConfig.register(PyramidConfig.model_type, PyramidConfig)
    library.AutoBackbone.register(PyramidConfig, PlaceOfPyramid)
    return PyramidConfig


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the warning that a backbone is not one of the authors' own."""
    logging = transformers().utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def build_network(network: str, config: str, channels: Sequence[int], **options: Any) -> Any:
    """A freshly drawn network of transformers with a place for a backbone.

    Args:
        network: name of its class.
        config: name of its configuration's class.
        channels: of the backbone's maps, finest first.
        **options: of the configuration.
    """
    library = transformers()
    backbone = _backbone_config()(channels=list(channels))
    with _quietly():
        made = getattr(library, config)(backbone_config=backbone, **options)
        return getattr(library, network)(made)


def keep_coarsest(pyramid: Pyramid, count: int) -> None:
    """Drop the finest maps, with the norms that would never be trained.

    Raises:
        OptionError: there are fewer maps.
    """
    have = len(pyramid.channels)
    if count > have:
        raise OptionError(f"The head looks at {count} maps, the pyramid has {have}; choose fewer.")
    pyramid.out_indices = pyramid.out_indices[-count:]
    pyramid.channels = pyramid.channels[-count:]
    pyramid.reductions = pyramid.reductions[-count:]
    norms: Any = pyramid.norms
    pyramid.norms = norms[-count:]


def check_scales(head: str, pyramid: Pyramid) -> None:
    """Refuse a pyramid whose maps do not halve from one to the next.

    Raises:
        OptionError: that is so.
    """
    have = pyramid.reductions
    if any(2 * fine != coarse for fine, coarse in pairwise(have)):
        raise OptionError(
            f"{head} needs maps that halve from one to the next, this backbone's have "
            f"{', '.join(map(str, have))} pixels a cell; choose another backbone."
        )


def check_width(d_model: int) -> None:
    """Refuse a width that the heads' norms cannot split.

    Raises:
        OptionError: that is so.
    """
    if d_model < 1 or d_model % NORM_GROUPS:
        raise OptionError(f"d_model is a multiple of {NORM_GROUPS}, got {d_model}.")


class PyramidMaps(nn.Module):
    """The pyramid as transformers' heads call their backbone.

    Heads compute in float32, as positions of a cell do not fit into bfloat16; the pyramid computes
    in the precision that `full_precision` found. Cells outside an image are blank, so that a head
    sees nothing of what the backbone made of the padding.

    Args:
        pyramid: the backbone.
        num_extra: coarser maps to make of the last by convolutions, each half its size.
        width: their channels.

    Attributes:
        channels: of each map.
    """

    def __init__(self, pyramid: Pyramid, num_extra: int = 0, width: int = 0):
        super().__init__()
        self.model = pyramid
        before = [pyramid.channels[-1], *[width] * max(0, num_extra - 1)][:num_extra]
        self.extra = nn.ModuleList(nn.Conv2d(c, width, 3, stride=2, padding=1) for c in before)
        self.channels = [*pyramid.channels, *[width] * num_extra]
        self.precision: torch.dtype | None = None

    def maps(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d h2 w2"]]:
        """Finest first, in float32 or better."""
        precision = self.precision
        with torch.autocast(images.device.type, precision, precision is not None):
            maps = self.model(images)
        maps = [m.float() if m.dtype in (torch.float16, torch.bfloat16) else m for m in maps]
        for convolution in self.extra:
            maps.append(convolution(maps[-1]))
        return maps


class MaskedMaps(PyramidMaps):
    """For detectors: each map with a mask of the cells inside the images."""

    def forward(
        self, pixel_values: Float[Tensor, "b c h w"], pixel_mask: Shaped[Tensor, "b h w"]
    ) -> list[tuple[Tensor, Tensor]]:
        """Images and 1 where they are, 0 where they were padded."""
        whole = pixel_mask[None].float()
        pairs = []
        for tapped in self.maps(pixel_values):
            mask = F.interpolate(whole, size=tapped.shape[-2:])[0].bool()
            pairs.append((tapped * mask[:, None], mask))
        return pairs


class NamedMaps(PyramidMaps):
    """For mask transformers."""

    def forward(self, pixel_values: Float[Tensor, "b c h w"], **_: Any) -> SimpleNamespace:
        """The maps, as `feature_maps`."""
        return SimpleNamespace(feature_maps=self.maps(pixel_values))


@contextmanager
def full_precision(backbone: PyramidMaps, images: Tensor) -> Iterator[None]:
    """Float32 for the head, and for the backbone the precision that is set outside."""
    kind = images.device.type
    enabled = torch.is_autocast_enabled(kind)
    backbone.precision = torch.get_autocast_dtype(kind) if enabled else None
    with torch.autocast(kind, enabled=False):
        yield


def pad_to(
    image: Shaped[Tensor, "*b c h w"], size: tuple[int, int]
) -> Shaped[Tensor, "*b c h2 w2"]:
    """The image in the upper left corner, zeros (the mean colour) elsewhere."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, size[1] - width, 0, size[0] - height))


def next_multiple(length: int, multiple: int) -> int:
    """The least multiple that is no smaller."""
    return -(-length // multiple) * multiple
