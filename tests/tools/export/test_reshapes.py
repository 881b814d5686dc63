"""Strided views become reshapes where they are reshapes, and stay what they are elsewhere."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from foveal.kernels.shapes import reshape
from foveal.tools.export.formats import save_onnx
from foveal.tools.export.reshapes import is_reshape


class Rows(nn.Module):
    """The rows of all images, of maps that lie otherwise in memory."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        return reshape(x.permute(0, 2, 3, 1), b * h, w * c) + 1


class Windows(nn.Module):
    """What no reshape gives: three numbers each, two of them of the next one."""

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0] * 12
        return x.clone(memory_format=torch.contiguous_format).as_strided((n - 2, 3), (1, 1)) + 1


def program_of(module: nn.Module, example: Tensor, dims: dict[int, Any]) -> ExportedProgram:
    return torch.export.export(module, (example,), dynamic_shapes=(dims,))


def strided(program: ExportedProgram) -> list[bool]:
    found = (n for n in program.graph.nodes if n.target is torch.ops.aten.as_strided.default)
    return [is_reshape(node) for node in found]


def run(program: ExportedProgram, file: Path, images: Tensor) -> tuple[np.ndarray, Counter[str]]:
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    save_onnx(program, file)
    kinds = Counter(node.op_type for node in onnx.load(file).graph.node)
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images.numpy()})[0], kinds


def test_a_reshape_of_symbolic_sides_is_one_in_the_file(tmp_path: Path) -> None:
    sides = {0: Dim("b"), 2: Dim("h", min=2), 3: Dim("w", min=2)}
    program = program_of(Rows(), torch.randn(2, 3, 8, 5), sides)
    assert strided(program) == [True]
    images = torch.randn(1, 3, 6, 7)
    got, kinds = run(program, tmp_path / "a.onnx", images)
    assert np.array_equal(got, Rows()(images).numpy())
    assert kinds["Reshape"] and not any("Gather" in kind for kind in kinds)


def test_overlapping_views_are_left_to_the_exporter(tmp_path: Path) -> None:
    program = program_of(Windows(), torch.randn(2, 12), {0: Dim("n", min=2)})
    assert strided(program) == [False]
    images = torch.randn(4, 12)
    got, kinds = run(program, tmp_path / "a.onnx", images)
    assert np.array_equal(got, Windows()(images).numpy())
    assert kinds["Gather"]


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.as_strided((6, 4), (4, 1)),
        lambda x: x.clone(memory_format=torch.contiguous_format).as_strided((2, 12), (12, 1), 1),
        lambda x: x.clone(memory_format=torch.contiguous_format).as_strided((2, 4), (4, 1)),
        lambda x: x.clone(memory_format=torch.contiguous_format).as_strided((12, 2), (1, 12)),
    ],
    ids=["of memory of another", "from the second number on", "a part", "transposed"],
)
def test_other_views_are_no_reshapes(view: Any) -> None:
    class Viewed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return view(x) + 1

    assert strided(torch.export.export(Viewed(), (torch.randn(5, 5),))) == [False]
