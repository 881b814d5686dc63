"""Static int8 for ONNX Runtime: QDQ, weights per channel, ranges of activations from images."""

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from foveal.errors import FovealError, MissingExtraError
from foveal.tools.export.formats import FORMATS, ONNX_LIMIT, Run
from foveal.tools.export.program import program_of
from foveal.tools.export.subject import Subject
from foveal.tools.quantize.graph import OPERATORS, feed_floats, layers_of, strip
from foveal.tools.quantize.layers import Layer, modules_by_weight, relative_error

# Images at a time while calibrating.
BATCH = 16


class OnnxQuantizer:
    """A network as ONNX in float, ready to be written with any of its layers in 8 bits.

    Activations are unsigned and asymmetric, by least and greatest value: as exact here as signed
    ones, and twice as fast in ONNX Runtime. Weights are signed and symmetric, a scale a channel.

    Args:
        subject: what is exported.
        images: to calibrate with.
        folder: for files of its own.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
        FovealError: the network is too large for one file of ONNX.
    """

    def __init__(self, subject: Subject, images: Float[np.ndarray, "n c h w"], folder: Path):
        try:
            import onnx
            import onnxruntime  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("onnx and onnxruntime", "quant") from error
        _require_one_file(subject)
        self.images = images
        self.batch = BATCH if subject.options.dynamic else 1
        self.ranges = folder / "ranges.json"
        self.float_file = folder / "float.onnx"
        FORMATS["onnx"].write(program_of(subject), subject, self.float_file)
        model = onnx.load(self.float_file)
        strip(model.graph)
        onnx.save(model, self.float_file)
        self.layers = layers_of(model.graph, modules_by_weight(subject.module.model))  # pyright: ignore[reportArgumentType]
        self.float_bytes = self.float_file.stat().st_size
        self.probe = folder / "probe.onnx"
        self._expected: np.ndarray | None = None

    def write(self, path: Path, floats: Collection[str] = ()) -> None:
        """The file, with the layers of these names in float."""
        self._write(path, [layer for layer in self.layers if layer.name not in floats])

    def open(self, path: Path) -> Run:
        """What runs a file that was written."""
        return FORMATS["onnx"].open(path)

    def error_alone(self, layer: Layer, count: int) -> float:
        """What the outputs for the first images differ by if this layer alone is in 8 bits."""
        if self._expected is None:
            self._expected = self._outputs(self.float_file, count)
        self._write(self.probe, [layer])
        return relative_error(self._outputs(self.probe, count), self._expected)

    def _outputs(self, path: Path, count: int) -> np.ndarray:
        run = self.open(path)
        images = torch.from_numpy(self.images[:count])
        return np.concatenate([run(batch)[0] for batch in images.split(self.batch)])

    def _write(self, path: Path, quantized: Collection[Layer]) -> None:
        """The file with these layers, and no others, in 8 bits."""
        import onnx
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        if not quantized:
            # To the quantiser, no names of nodes mean all nodes.
            path.write_bytes(self.float_file.read_bytes())
            return
        nodes = {name for layer in quantized for name in layer.nodes}
        with _quiet():
            quantize_static(
                self.float_file,
                path,
                _reader(self.images, self.batch),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_quantize=sorted(nodes),
                # Found at the first call, read at the others.
                calibration_cache_path=self.ranges,
                extra_options={
                    "MatMulConstBOnly": True,
                    # A bias is added in float; a convolution's kernel wants 8 bits on both sides.
                    "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"],
                },
            )
        model = onnx.load(path)
        feed_floats(model.graph, {n for layer in self.layers for n in layer.nodes} - nodes)
        strip(model.graph)
        onnx.save(model, path)


def _require_one_file(subject: Subject) -> None:
    size = sum(value.numel() * value.element_size() for value in subject.module.parameters())
    if size > ONNX_LIMIT:
        raise FovealError(
            f"{subject.metadata['model']} has {size / 1e9:.1f} GB of weights, and the quantiser of "
            f"ONNX Runtime takes {ONNX_LIMIT / 1e9:.1f} GB; choose --format torchao."
        )


def _reader(images: np.ndarray, batch: int) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Batches by the name of the input, then None."""

        def __init__(self) -> None:
            starts = range(0, len(images), batch)
            self.batches = iter([{"image": images[start : start + batch]} for start in starts])

        def get_next(self) -> Any:
            return next(self.batches, None)

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice that the quantiser gives by way of warnings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
