"""What is to be quantised, and how far its accuracy may fall."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from foveal.errors import OptionError, closest

# The file of each format.
SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "openvino": ".xml", "torchao": ".safetensors"}

# Those that quantise activations too, and look at images to know their ranges.
STATIC = ("onnx", "openvino")


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How a network is quantised.

    Attributes:
        format: "onnx" and "openvino" for weights and activations, "torchao" for weights alone.
        calibration_images: how many of the images given are looked at, at most.
        max_drop: what top-1 may fall by, in percentage points; layers that hurt most are kept in
            float until it falls by no more.
        dynamic: the file takes any number of images of any size; False for one image of one size.
        rank_layers: find out what every layer does to the outputs even where none is kept.
    """

    format: str = "onnx"
    calibration_images: int = 256
    max_drop: float = 1.0
    dynamic: bool = True
    rank_layers: bool = False

    def __post_init__(self) -> None:
        if self.format not in SUFFIXES:
            raise OptionError(
                f"There is no format {self.format!r}.{closest(self.format, SUFFIXES)} "
                f"It is one of {', '.join(SUFFIXES)}."
            )
        if self.calibration_images < 1:
            raise OptionError(
                f"Calibration takes 1 image or more, got {self.calibration_images}; a few hundred "
                "are customary."
            )
        if not 0 <= self.max_drop <= 100:
            raise OptionError(
                f"The accuracy may drop by 0 to 100 percentage points, got {self.max_drop}."
            )


def require_suffix(format: str, output: Path) -> None:
    """Refuse a file whose name says another format.

    Raises:
        OptionError: its suffix is not the format's.
    """
    if output.suffix != SUFFIXES[format]:
        raise OptionError(f"A file of {format} is named *{SUFFIXES[format]}, got {output.name!r}.")
