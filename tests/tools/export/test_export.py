"""Exported files compute what their network computes, at sizes other than the traced one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import foveal
from foveal.data.transforms import Preprocessing
from foveal.errors import FovealError, OptionError
from foveal.tools.commit import commit
from foveal.tools.export.check import check_sizes, sizes_to_check
from foveal.tools.export.formats import FORMATS
from foveal.tools.export.program import program_of
from foveal.tools.export.run import export_model
from foveal.tools.export.subject import ExportOptions, Run, Subject, subject_of
from foveal.tools.trained import ModelCard, TrainedModel
from tests.models.families import SMALLEST, golden_weights, shallow

PREPROCESSING = Preprocessing(image_size=96, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
CLASSES = tuple(f"kind {i}" for i in range(10))
SMALL = ExportOptions(image_size=(96, 96))


def trained(name: str) -> TrainedModel:
    """A shallow network whose tables, offsets and layer scales matter."""
    model = shallow(name)
    golden_weights(model)
    card = ModelCard(model=name, classes=CLASSES, preprocessing=PREPROCESSING)
    return TrainedModel(model, card, "the test")


# Those with many shapes to reason about take minutes.
QUICK = ("efficientmod_xxs", "focalnet_tiny_srf")
EVERY = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow, pytest.mark.timeout(600)])
    for name in SMALLEST
]


@pytest.mark.parametrize("name", EVERY)
def test_onnx_of_any_size(name: str, tmp_path: Path) -> None:
    done = []
    export = export_model(
        trained(name), tmp_path / "a.onnx", "onnx", SMALL, lambda *n: done.append(n)
    )
    assert done == [(i, 6) for i in range(1, 7)]
    assert [c.shape for c in export.checks] == [
        (2, 3, 96, 96), (1, 3, 72, 124), (1, 3, 64, 64), (3, 3, 134, 134)
    ]  # fmt: skip
    # Rounding in float32 is far below what is allowed.
    assert 0 < export.worst_error < 2e-5
    assert list(tmp_path.iterdir()) == [tmp_path / "a.onnx"] == list(export.files)
    assert export.megabytes == pytest.approx((tmp_path / "a.onnx").stat().st_size / 1e6)


def test_a_pooled_map_of_one_cell_sets_the_smallest_size() -> None:
    """A tracer takes a side of one for a constant."""
    name, large = "transnext_micro_aaaa", replace(SMALL, image_size=(160, 160))
    model = TrainedModel(
        foveal.create_model(name, num_classes=10, device="meta"),
        ModelCard(model=name, classes=CLASSES, preprocessing=PREPROCESSING),
        "the test",
    )
    subject = subject_of(model, large)
    assert subject.options.smallest == 128
    assert subject.options.sizes == "any size from 128 pixels"
    assert min(side for _, *sides in sizes_to_check(subject) for side in sides) == 128
    with pytest.raises(OptionError, match="from 128 pixels a side up, got 96 × 96"):
        subject_of(model, SMALL)


def test_openvino_of_any_size(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    export = export_model(trained("efficientmod_xxs"), tmp_path / "a.xml", "openvino", SMALL)
    assert export.worst_error < 2e-5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.xml"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("format", ["aoti", "executorch", "openvino", "torch-export"])
def test_every_format(format: str, name: str, tmp_path: Path) -> None:
    if format in ("executorch", "openvino"):
        pytest.importorskip(format)
    target = tmp_path / f"a{FORMATS[format].suffix}"
    assert export_model(trained(name), target, format, SMALL).worst_error < 2e-5


def test_executorch_of_one_size_says_what_it_is(tmp_path: Path) -> None:
    pytest.importorskip("executorch")
    from executorch.runtime import Runtime

    options = ExportOptions(image_size=(64, 96), batch_size=1, dynamic=False)
    file = tmp_path / "a.pte"
    export = export_model(trained("efficientmod_xxs"), file, "executorch", options)
    assert export.worst_error < 2e-5 and export.sizes == "this size alone"
    said = Runtime.get().load_program(file).load_method("metadata_classes")
    assert said is not None and said.execute([])[0].splitlines() == list(CLASSES)


def test_a_format_that_plans_its_memory_has_a_largest_size() -> None:
    options = replace(SMALL, bounded=True)
    assert options.largest == (4, 192, 192) and SMALL.largest is None
    assert options.sizes == "any size from 64 to 192 × 192 pixels, up to 4 at a time"
    program = program_of(subject_of(trained("efficientmod_xxs"), options))
    bounds = {(int(r.lower), int(r.upper)) for r in program.range_constraints.values()}
    assert (64, 192) in bounds


def test_what_travels_in_the_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    options = replace(SMALL, preprocessing=True)
    export_model(trained("efficientmod_xxs"), tmp_path / "a.onnx", "onnx", options)
    model = onnx.load(tmp_path / "a.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert said["classes"].splitlines() == list(CLASSES)
    assert said["commit"] == (commit() or "")
    assert said["input"] == "intensities in [0, 1]" and said["mean"] == "0.4,0.5,0.6"
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18]
    # Standard operators alone, no functions or domains of anybody's.
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_normalisation_inside(tmp_path: Path) -> None:
    """Intensities through the file are normalised intensities through the network."""
    model = trained("efficientmod_xxs")
    options = replace(SMALL, preprocessing=True)
    subject = subject_of(model, options)
    path = tmp_path / "a.pt2"
    FORMATS["torch-export"].write(program_of(subject), subject, path)
    image = torch.rand(1, 3, 80, 112)
    (logits,) = FORMATS["torch-export"].open(path)(image)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)))
    with torch.no_grad():
        expected = model.model((image - mean) / std)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_pyramid(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    options = replace(SMALL, head="pyramid")
    export = export_model(trained("focalnet_tiny_srf"), tmp_path / "a.onnx", "onnx", options)
    assert export.worst_error < 2e-5
    session = ort.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    assert [o.name for o in session.get_outputs()] == [f"stage_{i}" for i in range(1, 5)]
    maps = session.run(None, {"image": np.zeros((1, 3, 64, 128), np.float32)})
    assert [m.shape for m in maps] == [
        (1, 16 * 2**i, 16 // 2**i, 32 // 2**i) for i in range(4)
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["cloformer_xxs", "dat_tiny"])
def test_one_size_alone(name: str, tmp_path: Path) -> None:
    """One image: attention's result lies otherwise in memory than that of several."""
    options = ExportOptions(image_size=(64, 96), batch_size=1, dynamic=False)
    export = export_model(trained(name), tmp_path / "a.onnx", "onnx", options)
    assert [check.shape for check in export.checks] == [(1, 3, 64, 96)]
    assert export.worst_error < 2e-5


class _Frozen(nn.Module):
    """A network that is exported wrong: it remembers the size that it was traced at."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(10))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        # What a table of constants does: of the traced size in the graph, of the actual outside.
        side = 96 if torch.compiler.is_exporting() else image.shape[2]
        return image.mean((1, 2, 3))[:, None] * self.scale + side


def test_a_file_that_is_wrong_at_other_sizes_is_refused(tmp_path: Path) -> None:
    card = ModelCard(model="frozen", classes=CLASSES, preprocessing=PREPROCESSING)
    wrong = TrainedModel(_Frozen(), card, "the test")
    with pytest.raises(FovealError, match=r"does not compute .* at 72 × 124.*no file was written"):
        export_model(wrong, tmp_path / "a.pt2", "torch-export", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_checks_notice_shapes_and_numbers_that_do_not_compare() -> None:
    subject = subject_of(trained("efficientmod_xxs"), SMALL)

    def errors(run: Run) -> set[float]:
        return {check.error for check in check_sizes(subject, run)}

    assert errors(lambda image: []) == {float("inf")}
    assert errors(lambda image: [np.zeros((1, 3), np.float32)]) == {float("inf")}
    nans = errors(lambda image: [np.full((len(image), 10), np.nan, np.float32)])
    assert nans == {float("inf")}


def test_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject(nn.Identity(), ("logits",), ExportOptions(), {})
    assert sizes_to_check(subject) == [(2, 224, 224), (1, 168, 291), (1, 100, 100), (3, 313, 313)]


def test_wrong_input(tmp_path: Path) -> None:
    model = trained("efficientmod_xxs")
    with pytest.raises(OptionError, match=r"no format 'onxx'. Did you mean 'onnx'"):
        export_model(model, tmp_path / "a.onnx", "onxx")
    with pytest.raises(OptionError, match=r"named \*.xml, got 'a.onnx'"):
        export_model(model, tmp_path / "a.onnx", "openvino")
    with pytest.raises(OptionError, match="from 64 pixels a side up, got 32 × 32"):
        ExportOptions(image_size=(32, 32))
    with pytest.raises(OptionError, match="traces 2 images or more, got 1; choose 2, or --fixed"):
        ExportOptions(batch_size=1)
    with pytest.raises(OptionError, match="head is one of"):
        ExportOptions(head="boxes")  # pyright: ignore[reportArgumentType]
    headless = replace(model, card=replace(model.card, classes=()))
    with pytest.raises(FovealError, match="--head pyramid"):
        subject_of(headless, SMALL)
