"""Static int8 for OpenVINO, through NNCF: fake quantisation, made integers of when it is loaded."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from foveal.errors import MissingExtraError
from foveal.tools.export.formats import FORMATS, Run
from foveal.tools.export.subject import Subject
from foveal.tools.quantize.layers import Layer
from foveal.tools.quantize.onnx_file import OnnxQuantizer

# Operators of OpenVINO that NNCF would quantise though they have no weight. On EfficientMod that
# costs most of the accuracy; see docs/quantization.md.
_IN_FLOAT = (
    "Add",
    "Multiply",
    "Subtract",
    "Divide",
    "MVN",
    "Softmax",
    "ReduceMean",
    "Gelu",
    "AvgPool",
    "Interpolate",
)
_WITH_WEIGHTS = ("MatMul", "Convolution", "GroupConvolution")
# What the importer of ONNX calls a layer that it takes apart.
_PARTS = ("", "/WithoutBiases")


class OpenVinoQuantizer:
    """A network for OpenVINO, ready to be written with any of its layers in 8 bits.

    Weights and activations are signed and symmetric (asymmetric activations make OpenVINO slower
    than float32 on a CPU). Layers are ranked in ONNX Runtime, which quantises them alike and is
    quick to do so.

    Args:
        subject: what is exported.
        images: to calibrate with.
        folder: for files of its own.

    Raises:
        MissingExtraError: openvino or nncf is not installed.
    """

    def __init__(self, subject: Subject, images: Float[np.ndarray, "n c h w"], folder: Path):
        try:
            import nncf  # noqa: F401
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino and nncf", "quant") from error
        self.ranker = OnnxQuantizer(subject, images, folder)
        self.subject = subject
        self.layers = self.ranker.layers
        source = openvino.convert_model(self.ranker.float_file)
        self.float_file = folder / "float.xml"
        openvino.save_model(source, self.float_file, compress_to_fp16=False)
        files = (self.float_file, self.float_file.with_suffix(".bin"))
        self.float_bytes = sum(path.stat().st_size for path in files)

    def write(self, path: Path, floats: Collection[str] = ()) -> None:
        """The file, and its weights beside it, with the layers of these names in float."""
        import openvino

        model = openvino.Core().read_model(self.float_file)
        quantized = [layer for layer in self.layers if layer.name not in floats]
        if quantized:
            model = self._quantized(model, quantized)
        for name, text in self.subject.metadata.items():
            model.set_rt_info(text, ["foveal", name])
        openvino.save_model(model, path, compress_to_fp16=False)

    def open(self, path: Path) -> Run:
        """What runs a file that was written."""
        return FORMATS["openvino"].open(path)

    def error_alone(self, layer: Layer, count: int) -> float:
        """What the outputs for the first images differ by if this layer alone is in 8 bits."""
        return self.ranker.error_alone(layer, count)

    def _quantized(self, model: Any, quantized: Collection[Layer]) -> Any:
        import nncf
        from nncf.quantization.advanced_parameters import QuantizationParameters

        wanted = {node + part for layer in quantized for node in layer.nodes for part in _PARTS}
        names = [
            operator.get_friendly_name()
            for operator in model.get_ordered_ops()
            if operator.get_type_name() in _WITH_WEIGHTS
            and operator.get_friendly_name() not in wanted
        ]
        images, batch = self.ranker.images, self.ranker.batch
        batches = [images[start : start + batch] for start in range(0, len(images), batch)]
        with _quiet():
            return nncf.quantize(
                model,
                nncf.Dataset(batches),
                subset_size=len(batches),
                ignored_scope=nncf.IgnoredScope(names=names, types=list(_IN_FLOAT), validate=False),
                advanced_parameters=nncf.AdvancedQuantizationParameters(
                    # A scale a channel, which it would give the inputs of depthwise convolutions,
                    # lands on the rows of channels-last maps, whose number is not always the same.
                    activations_quantization_params=QuantizationParameters(per_channel=False)
                ),
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without NNCF's bars and lists on standard output, and its advice."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(level)
