"""What quantising a network came to."""

from dataclasses import dataclass
from pathlib import Path

from foveal.tools.quantize.layers import LayerError

# Of its float32 file: what a file of 8 bits may take before layers are kept in float.
EXPECTED_SHARE = 0.30


@dataclass(frozen=True)
class Accuracy:
    """How right the network is about held-out images, in float and in 8 bits, in per cent.

    Attributes:
        images: which images were judged, in words.
        num_images: how many.
        float32: top-1 of the network.
        every_layer: top-1 of the file with every layer in 8 bits.
        file: top-1 of the file that was written.
        agreement: images for which that file and the network find the same class likeliest.
    """

    images: str
    num_images: int
    float32: float
    every_layer: float
    file: float
    agreement: float

    @property
    def drop(self) -> float:
        """What the file loses, in percentage points."""
        return self.float32 - self.file


@dataclass(frozen=True)
class SizeError:
    """How far the file is from the network for images of one size.

    Attributes:
        shape: of the images, (b, c, h, w).
        error: ‖outputs − the network's‖ / ‖the network's‖, over enlarged or reduced images of
            those calibrated with.
    """

    shape: tuple[int, ...]
    error: float


@dataclass(frozen=True)
class Quantization:
    """A file in 8 bits.

    Attributes:
        model: name of the network.
        format: of the file.
        files: the file, then what belongs to it and lies beside it.
        calibration_images: how many gave the ranges of activations; 0 where none are needed.
        layers: names of all layers that can be quantised, in order.
        kept_float: of those that were left in float, the most harmful first.
        ranking: what every layer does to the outputs, the most harmful first; empty where nobody
            wanted to know.
        float_megabytes: of the file of the same format in float32.
        every_layer_megabytes: of the file with every layer in 8 bits.
        megabytes: of what was written.
        sizes: how far it is from the network, size by size.
        accuracy: None without images to judge by.
    """

    model: str
    format: str
    files: tuple[Path, ...]
    calibration_images: int
    layers: tuple[str, ...]
    kept_float: tuple[str, ...]
    ranking: tuple[LayerError, ...]
    float_megabytes: float
    every_layer_megabytes: float
    megabytes: float
    sizes: tuple[SizeError, ...]
    accuracy: Accuracy | None = None

    @property
    def share_before_exceptions(self) -> float:
        """Of the float32 file's size, with every layer in 8 bits, from 0 to 1."""
        return self.every_layer_megabytes / self.float_megabytes

    @property
    def share(self) -> float:
        """Of the float32 file's size, as it was written."""
        return self.megabytes / self.float_megabytes
