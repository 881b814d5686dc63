"""From an image to the tensor a network was made for, through timm's transforms."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor

from foveal.errors import FovealError, OptionError

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes an input.

    Attributes:
        image_size: side of the input in pixels, from 32 up.
        mean: per channel, of intensities in [0, 1].
        std: per channel.
        interpolation: of the resizing, "bicubic" or "bilinear".
        crop_pct: share of the resized shorter side that the centre crop keeps, in (0, 1].
    """

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_pct: float = 0.9

    def __post_init__(self) -> None:
        if self.image_size < 32:
            raise FovealError(
                f"Networks take images from 32 pixels a side up, got {self.image_size}; "
                "choose --image-size 32 or more."
            )

    @property
    def in_chans(self) -> int:
        """Channels of the input."""
        return len(self.mean)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a file."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})


def resolve_preprocessing(
    pretrained_cfg: Mapping[str, Any],
    *,
    image_size: int | None = None,
    in_chans: int = 3,
    crop_pct: float | None = None,
) -> Preprocessing:
    """What a model's timm configuration asks for.

    Args:
        pretrained_cfg: `model.pretrained_cfg`.
        image_size: side in pixels; None for the configuration's own.
        in_chans: channels the model takes; other than three get the mean of the colours.
        crop_pct: share of the resized side to keep; None for the configuration's own.
    """
    config = resolve_data_config(pretrained_cfg=dict(pretrained_cfg))
    return Preprocessing(
        image_size=config["input_size"][-1] if image_size is None else image_size,
        mean=_per_channel(config["mean"], in_chans),
        std=_per_channel(config["std"], in_chans),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"] if crop_pct is None else crop_pct,
    )


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to training images.

    Attributes:
        scale: least and greatest share of the area that the random crop keeps.
        ratio: least and greatest aspect ratio of that crop.
        hflip: probability of a mirror image.
        color_jitter: strength of changes of brightness, contrast and saturation.
        auto_augment: timm's policy string, such as "rand-m9-mstd0.5-inc1", or None.
        random_erasing: probability of blanking a rectangle.
    """

    scale: tuple[float, float] = (0.35, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    color_jitter: float = 0.3
    auto_augment: str | None = None
    random_erasing: float = 0.0

    def __post_init__(self) -> None:
        for name, greatest in (("scale", 1.0), ("ratio", float("inf"))):
            low, high = getattr(self, name)
            if not 0 < low <= high <= greatest:
                raise OptionError(
                    f"{name} is a least and a greatest value above 0"
                    f"{' and at most 1' if name == 'scale' else ''}, got {[low, high]}."
                )
        for name in ("hflip", "random_erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} lies between 0 and 1, got {getattr(self, name)}.")
        if self.color_jitter < 0:
            raise OptionError(f"color_jitter is 0 or more, got {self.color_jitter}.")


def train_transform(preprocessing: Preprocessing, augmentation: Augmentation) -> Transform:
    """Random crop and changes, then the input of `preprocessing`.

    Raises:
        OptionError: timm has no such policy.
    """
    try:
        transform: Any = create_transform(
            **_shared(preprocessing),
            is_training=True,
            scale=augmentation.scale,
            ratio=augmentation.ratio,
            hflip=augmentation.hflip,
            color_jitter=augmentation.color_jitter if preprocessing.in_chans == 3 else 0.0,
            auto_augment=augmentation.auto_augment,
            re_prob=augmentation.random_erasing,
        )
    except (AssertionError, ValueError) as error:
        raise OptionError(
            f"auto_augment is one of timm's policies, such as rand-m9-mstd0.5-inc1, or null, got "
            f"{augmentation.auto_augment!r}."
        ) from error
    return transform


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """Resize and centre crop; nothing random."""
    transform: Any = create_transform(**_shared(preprocessing), crop_pct=preprocessing.crop_pct)
    return transform


def _shared(preprocessing: Preprocessing) -> dict[str, Any]:
    side = preprocessing.image_size
    return {
        "input_size": (preprocessing.in_chans, side, side),
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation,
    }


def _per_channel(values: tuple[float, ...], in_chans: int) -> tuple[float, ...]:
    if len(values) == in_chans:
        return tuple(values)
    return (sum(values) / len(values),) * in_chans
