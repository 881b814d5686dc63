"""An ONNX graph as quantisation sees it: its layers, and what is of no use in a small file."""

from collections.abc import Collection, Mapping
from typing import Any

from foveal.tools.quantize.layers import Layer, fingerprint

# What has integer kernels and a weight. All else stays in float: quantising sums, products and
# softmax as well costs accuracy, and more time than it saves.
OPERATORS = ("Conv", "MatMul", "Gemm")


def strip(graph: Any) -> None:
    """Take out where each node came from in the source code: a quarter of an int8 file."""
    for part in (*graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        del part.metadata_props[:]
        part.doc_string = ""


def layers_of(graph: Any, modules: Mapping[str, str]) -> tuple[Layer, ...]:
    """The layers with constant weights, in the graph's order.

    Args:
        graph: of ONNX.
        modules: from `modules_by_weight`, by which layers are named.
    """
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for node in graph.node:
        weight = constants.get(node.input[1]) if node.op_type in OPERATORS else None
        if weight is None or len(weight.dims) < 2:
            continue
        values = numpy_helper.to_array(weight)
        name = modules.get(fingerprint(values), node.name)
        nodes.setdefault(name, []).append(node.name)
        sizes[name] = values.size
    return tuple(Layer(name, sizes[name], tuple(of)) for name, of in nodes.items())


def feed_floats(graph: Any, floats: Collection[str]) -> None:
    """Give nodes that stay in float the float inputs that they had before quantisation.

    An input that an 8-bit layer shares with them has been rounded for all who read it.

    Args:
        graph: quantised, of ONNX.
        floats: names of the nodes.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.name not in floats:
            continue
        for place, name in enumerate(node.input):
            opened = made_by.get(name)
            if opened is None or opened.op_type != "DequantizeLinear":
                continue
            rounded = made_by.get(opened.input[0])
            if rounded is not None and rounded.op_type == "QuantizeLinear":
                node.input[place] = rounded.input[0]
