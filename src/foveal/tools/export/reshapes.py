"""Reshapes for ONNX, whose exporter would gather the numbers of a strided view one by one.

The backbones reshape by strides while exporting (`foveal.kernels.shapes.reshape`), because a
reshape would bind the graph to what held for the traced size. Past the trace nothing binds any
more, and such a view is the reshape again.
"""

from collections.abc import Callable, Iterable
from typing import Any, cast

import sympy
import torch
from torch.export import ExportedProgram
from torch.fx import Node


def onnx_reshapes(program: ExportedProgram) -> dict[Callable[..., Any], Callable[..., Any]]:
    """Translations for `torch.onnx.export`; none if some strided view is more than a reshape."""
    from onnxscript import INT64, opset18
    from onnxscript.onnx_types import TensorType

    # The exporter reads these types.
    def reshaped(x: TensorType, size: INT64, stride: INT64, storage_offset: int = 0) -> TensorType:
        return cast(TensorType, opset18.Reshape(cast(Any, x), size))

    operator = torch.ops.aten.as_strided.default
    strided = [node for node in program.graph.nodes if node.target is operator]
    return {operator: reshaped} if all(map(is_reshape, strided)) else {}


def is_reshape(node: Node) -> bool:
    """Whether a strided view gives all numbers of memory of its own in their order."""
    source, sizes, strides, *offset = node.args
    if any(offset) or not isinstance(source, Node):
        return False
    if source.kwargs.get("memory_format") is not torch.contiguous_format:
        return False
    step: Any = 1
    for size, stride in zip(_expressions(sizes)[::-1], _expressions(strides)[::-1], strict=True):
        if not _is_same(stride, step):
            return False
        step = step * size
    return _is_same(step, sympy.prod(_expressions(source.meta["val"].shape)))


def _is_same(one: Any, other: Any) -> bool:
    return sympy.expand(one - other) == 0


def _expressions(sizes: Any) -> list[Any]:
    """Sizes as expressions of the sides of the image."""
    return [_expression(size) for size in cast(Iterable[Any], sizes)]


def _expression(size: Any) -> Any:
    value = size.meta["val"] if isinstance(size, Node) else size
    return value.node.expr if isinstance(value, torch.SymInt) else sympy.Integer(value)
