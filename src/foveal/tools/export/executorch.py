"""ExecuTorch, for phones: XNNPACK where it has an operator, its own portable kernels elsewhere."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch._decomp import get_decompositions
from torch._ops import OpOverload
from torch.export import ExportedProgram

from foveal.errors import FovealError, MissingExtraError, first_line
from foveal.tools.export.subject import Run, Subject

# Its reshape has room for one size that is not known, where ours may have three.
_OF_ONE_UNKNOWN_SIZE = ("UnsqueezeCopyConfig", "ViewCopyConfig")


def write_executorch(program: ExportedProgram, subject: Subject, path: Path) -> None:
    """A program as `.pte`; what travels with it are methods called `metadata_NAME`.

    Raises:
        MissingExtraError: executorch is not installed.
        FovealError: it cannot lower the network.
    """
    try:
        from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
    except ImportError as error:
        raise MissingExtraError("executorch", "executorch") from error
    is_dynamic = subject.options.dynamic
    configs = [
        config
        for config in ALL_PARTITIONER_CONFIGS
        if not (is_dynamic and config.__name__ in _OF_ONE_UNKNOWN_SIZE)
    ]
    partitioner = XnnpackPartitioner(configs=configs)
    metadata = {f"metadata_{name}": text for name, text in subject.metadata.items()}
    try:
        lowered = to_edge_transform_and_lower(
            _plain(program, partitioner.ops_to_not_decompose(program)[0]),
            partitioner=[partitioner],
            # Its check knows core operators alone; the runtime has a kernel for what we use beside.
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
            constant_methods=metadata,
        )
        written = lowered.to_executorch().buffer
    except Exception as error:
        sizes = " for images of any size" if is_dynamic else ""
        hint = "--fixed exports it for one" if is_dynamic else "--format onnx does"
        raise FovealError(
            f"ExecuTorch cannot lower {subject.metadata['model']}{sizes}: {first_line(error)}; "
            f"{hint}."
        ) from error
    path.write_bytes(written)


def _plain(program: ExportedProgram, kept: Sequence[OpOverload]) -> ExportedProgram:
    """The same with all memory channels-first, which some of ExecuTorch's own kernels insist on.

    Group norms go for the same reason: their neighbours may be delegated, and the kernel refuses
    what it then gets.

    Args:
        kept: operators that stay whole, as XNNPACK knows them and not what they are made of.
    """
    norms = get_decompositions([torch.ops.aten.native_group_norm.default])
    table = {**torch.export.default_decompositions(), **norms}
    plain = program.run_decompositions({op: f for op, f in table.items() if op not in kept})
    for node in plain.graph.nodes:
        if node.kwargs.get("memory_format") is torch.channels_last:
            node.kwargs = {**node.kwargs, "memory_format": torch.contiguous_format}
        if node.target is torch.ops.aten.view.default:
            # What could be viewed as it lay may have to be copied now.
            node.target = torch.ops.aten.reshape.default
    # Once more, so that every node's shapes and strides are those of what it now computes.
    return plain.run_decompositions({})


def open_executorch(path: Path) -> Run:
    """What is in a `.pte`, by ExecuTorch's Python runtime."""
    from executorch.runtime import Runtime

    # Whatever is not referred to any more is unloaded, method or not.
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")
    if method is None:
        raise FovealError(f"{path} has no method forward.")

    def run(image: Tensor) -> list[np.ndarray]:
        assert program is not None
        try:
            outputs = method.execute([image.contiguous()])
        except RuntimeError as error:
            size = " × ".join(map(str, image.shape))
            raise FovealError(
                f"ExecuTorch cannot run what it made for an image of {size}: {first_line(error)}; "
                "--fixed exports for one size, --format onnx runs at all."
            ) from error
        # They lie in memory that the next call writes to.
        return [output.numpy().copy() for output in outputs]

    return run
