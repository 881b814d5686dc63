"""Static int8: what is in the file, that it is judged as written, and that harm is found."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foveal.errors import FovealError, OptionError
from foveal.tools.export.subject import ExportOptions, subject_of
from foveal.tools.quantize.onnx_file import OnnxQuantizer
from foveal.tools.quantize.options import SUFFIXES, QuantizeOptions
from foveal.tools.quantize.report import Quantization
from foveal.tools.quantize.run import quantize_model
from foveal.tools.quantize.sizes import check_other_sizes
from tests.tools.quantize.networks import inputs, judged_by, make_fragile, network, pictures

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

CALIBRATION = inputs(pictures(24, seed=3)).numpy()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Quantization]:
    """A sound network as ONNX, with a ranking."""
    target = tmp_path_factory.mktemp("int8") / "a.onnx"
    trained = network()
    options = QuantizeOptions(max_drop=100)
    return target, quantize_model(trained, target, CALIBRATION, options, judged_by(trained))


def logits_of(path: Path, images: torch.Tensor) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images.numpy()})[0]


def test_weights_are_int8_with_a_scale_a_channel(written: tuple[Path, Quantization]) -> None:
    path, report = written
    model = onnx.load(path)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    openers = {n.output[0]: n for n in model.graph.node if n.op_type == "DequantizeLinear"}
    layers = 0
    for node in model.graph.node:
        opened = openers.get(node.input[1]) if node.op_type in ("Conv", "MatMul", "Gemm") else None
        if opened is None or opened.input[0] not in constants:
            continue
        layers += 1
        weight, scale = (constants[name] for name in opened.input[:2])
        outputs = weight.shape[1] if node.op_type == "MatMul" else weight.shape[0]
        assert weight.dtype == np.int8 and scale.shape == (outputs,)
        assert len(np.unique(scale)) > 1
        # Activations go in as unsigned integers.
        given = openers[node.input[0]]
        assert constants[given.input[2]].dtype == np.uint8
    assert layers == len(report.layers) == 4 * 5 + 5 + 4 + 4 + 1
    assert "stages.0.blocks.0.mixer.depthwise" in report.layers and "head.fc" in report.layers


def test_the_size(written: tuple[Path, Quantization]) -> None:
    path, report = written
    assert report.megabytes == pytest.approx(path.stat().st_size / 1e6)
    assert report.share == report.share_before_exceptions <= 0.30
    assert list(path.parent.iterdir()) == [path] == list(report.files)


def test_the_accuracy_is_that_of_the_file(written: tuple[Path, Quantization]) -> None:
    path, report = written
    images = judged_by(network())
    right = logits_of(path, inputs(pictures(40, seed=2))).argmax(-1) == images.samples.labels
    assert report.accuracy is not None and report.accuracy.float32 == 100
    assert report.accuracy.file == pytest.approx(100 * right.mean())
    assert report.accuracy.agreement == pytest.approx(100 * right.mean())
    assert len(set(images.samples.labels)) > 3


def test_other_sizes(written: tuple[Path, Quantization]) -> None:
    _, report = written
    assert [size.shape[2:] for size in report.sizes] == [(64, 64), (64, 83), (64, 64), (89, 89)]
    assert all(0 < size.error < 0.3 for size in report.sizes)


def test_what_travels_in_the_file_and_what_does_not(written: tuple[Path, Quantization]) -> None:
    model = onnx.load(written[0])
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["classes"].startswith("kind 0\n") and said["mean"] == "0.5,0.5,0.5"
    assert not any(node.metadata_props for node in model.graph.node)


def test_layers_that_hurt_are_found_and_kept(tmp_path: Path) -> None:
    trained = network()
    images = judged_by(trained)
    harmed = make_fragile(trained.model)
    options = QuantizeOptions(max_drop=10)
    steps: list[tuple[int, int]] = []
    report = quantize_model(
        trained,
        tmp_path / "a.onnx",
        CALIBRATION,
        options,
        images,
        on_done=lambda *n: steps.append(n),
    )
    assert report.accuracy is not None
    # With all layers in int8 it is not usable.
    assert report.accuracy.every_layer < 70
    assert report.accuracy.file >= 90 and report.accuracy.drop <= 10
    assert report.ranking[0].name == harmed == report.kept_float[0]
    assert report.ranking[0].error > 3 * report.ranking[1].error and len(report.kept_float) < 6
    assert report.megabytes > report.every_layer_megabytes
    assert steps[-1][0] == steps[-1][1]
    right = logits_of(tmp_path / "a.onnx", inputs(pictures(40, seed=2))).argmax(-1)
    assert 100 * (right == images.samples.labels).mean() == pytest.approx(report.accuracy.file)


def test_a_layer_in_float_reads_floats(tmp_path: Path) -> None:
    """Also where an 8-bit layer reads the same map."""
    trained = network()
    subject = subject_of(trained, ExportOptions(image_size=(64, 64)))
    quantizer = OnnxQuantizer(subject, CALIBRATION[:4], tmp_path)
    block = "stages.1.blocks.0.mixer"
    quantizer.write(tmp_path / "a.onnx", [f"{block}.f"])
    graph = onnx.load(tmp_path / "a.onnx").graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    nodes = {node.name: node for node in graph.node}
    read = {
        layer.name: made_by[nodes[layer.nodes[0]].input[0]]
        for layer in quantizer.layers
        if layer.name in (f"{block}.f", f"{block}.fc1")
    }
    assert read[f"{block}.fc1"] == "DequantizeLinear"
    assert read[f"{block}.f"] not in ("DequantizeLinear", "QuantizeLinear")


def test_one_size_alone(tmp_path: Path) -> None:
    options = QuantizeOptions(dynamic=False)
    report = quantize_model(network(), tmp_path / "a.onnx", CALIBRATION[:4], options)
    assert [size.shape for size in report.sizes] == [(1, 3, 64, 64)]
    assert report.accuracy is None and report.kept_float == () and report.ranking == ()


def test_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    trained = network()
    options = QuantizeOptions(format="openvino", max_drop=100)
    target = tmp_path / "a.xml"
    report = quantize_model(trained, target, CALIBRATION, options, judged_by(trained))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bin", "a.xml"]
    assert report.megabytes == pytest.approx(
        sum(path.stat().st_size for path in tmp_path.iterdir()) / 1e6
    )
    assert report.accuracy is not None and report.accuracy.file >= 75
    import openvino

    model = openvino.Core().read_model(target)
    weights = [o for o in model.get_ordered_ops() if o.get_type_name() == "Constant"]
    int8 = [w for w in weights if w.get_element_type() == openvino.Type.i8]
    assert len(int8) == len(report.layers)


def test_a_file_that_is_wrong_at_other_sizes_is_refused() -> None:
    trained = network()
    subject = subject_of(trained, ExportOptions(image_size=(64, 64)))

    def frozen(images: torch.Tensor) -> list[np.ndarray]:
        with torch.inference_mode():
            right = trained.model(images).numpy()
        return [right if images.shape[3] == 64 else -right]

    with pytest.raises(FovealError, match=r"at 64 × 83 \(off by 2.00.*--fixed"):
        check_other_sizes(subject, frozen, CALIBRATION)


def test_wrong_input(tmp_path: Path) -> None:
    trained = network()
    with pytest.raises(OptionError, match=r"named \*.onnx, got 'a.xml'"):
        quantize_model(trained, tmp_path / "a.xml", CALIBRATION)
    with pytest.raises(OptionError, match=r"no format 'onxx'\. Did you mean 'onnx'"):
        QuantizeOptions(format="onxx")
    with pytest.raises(OptionError, match="1 image or more, got 0"):
        QuantizeOptions(calibration_images=0)
    with pytest.raises(OptionError, match="0 to 100 percentage points, got -1"):
        QuantizeOptions(max_drop=-1)
    with pytest.raises(FovealError, match="images of 3 × 64 × 64, got 24 × 1 × 64 × 64"):
        quantize_model(trained, tmp_path / "a.onnx", CALIBRATION[:, :1])
    assert list(tmp_path.iterdir()) == []
    assert set(SUFFIXES) == {"onnx", "openvino", "torchao"}
