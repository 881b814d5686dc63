"""The formats: each writes a file, and opens it again to run it."""

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.export import ExportedProgram

from foveal.errors import FovealError, MissingExtraError, first_line
from foveal.tools.export.executorch import open_executorch, write_executorch
from foveal.tools.export.reshapes import onnx_reshapes
from foveal.tools.export.subject import Run, Subject

# Larger ones do not fit one file of ONNX's: the weights lie beside it.
ONNX_LIMIT = 1_800_000_000


class Format(NamedTuple):
    """One format.

    Attributes:
        suffix: of its file.
        write: puts a program into a file, and maybe more beside it of the same name.
        open: runs what is in the file, on the CPU.
        is_bounded: it plans its memory, so that "any size" needs a largest one.
    """

    suffix: str
    write: Callable[[ExportedProgram, Subject, Path], None]
    open: Callable[[Path], Run]
    is_bounded: bool = False


def _write_onnx(program: ExportedProgram, subject: Subject, path: Path) -> None:
    is_dynamic = subject.options.dynamic
    save_onnx(program, path, subject.outputs, subject.metadata, is_dynamic=is_dynamic)


def save_onnx(
    program: ExportedProgram,
    path: Path,
    outputs: Sequence[str] = ("logits",),
    metadata: Mapping[str, str] | None = None,
    *,
    is_dynamic: bool = False,
) -> None:
    """A program of one image as ONNX; weights that do not fit one file go beside it.

    Args:
        program: from `torch.export`.
        path: of the file.
        outputs: names of what it returns; its input is called "image".
        metadata: to put into the file.
        is_dynamic: batch, height and width are symbols.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
    """
    try:
        import onnx_ir
        from onnx_ir.passes import common
        from onnxscript.optimizer import fold_constants
    except ImportError as error:
        raise MissingExtraError("onnx and onnxscript", "export") from error
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        output_names=list(outputs),
        custom_translation_table=onnx_reshapes(program),
        # Its search for patterns takes minutes where there are thousands of nodes; what it finds,
        # runtimes find as well when they load a file.
        optimize=False,
        verbose=False,
    )
    assert exported is not None
    model = exported.model
    fold_constants(model, onnx_shape_inference=False)
    passes = (
        common.IdentityEliminationPass(),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
    )
    onnx_ir.passes.Sequential(*passes)(model)
    if is_dynamic:
        _name_sides(model)
    model.metadata_props.update(metadata or {})
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    exported.save(path, external_data=size > ONNX_LIMIT)


def _name_sides(model: Any) -> None:
    """ "batch", "height" and "width" in place of the exporter's own symbols, in every shape."""
    import onnx_ir

    shape = model.graph.inputs[0].shape
    names = {str(shape[i]): name for i, name in ((0, "batch"), (2, "height"), (3, "width"))}
    symbols = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")

    def named(dim: Any) -> Any:
        if isinstance(dim, int):
            return dim
        return onnx_ir.SymbolicDim(symbols.sub(lambda found: names[found[1]], str(dim)))

    values = [*model.graph.inputs, *(v for node in model.graph.all_nodes() for v in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = onnx_ir.Shape([named(dim) for dim in value.shape])


def _open_onnx(path: Path) -> Run:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "export") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its warnings are of no use to a person who exports.
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda image: [np.asarray(y) for y in session.run(None, {"image": image.numpy()})]


def _write_program(program: ExportedProgram, subject: Subject, path: Path) -> None:
    files = {f"{name}.txt": text for name, text in subject.metadata.items()}
    torch.export.save(program, path, extra_files=files)


def _open_program(path: Path) -> Run:
    module = torch.export.load(path).module()
    return lambda image: _arrays(module(image))


def _write_aoti(program: ExportedProgram, subject: Subject, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    metadata = {"aot_inductor.metadata": dict(subject.metadata)}
    try:
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=metadata)
    except Exception as error:
        raise FovealError(
            f"AOTInductor cannot compile {subject.metadata['model']}: {first_line(error)}; it "
            "needs a C++ compiler, and --format onnx does not."
        ) from error


def _open_aoti(path: Path) -> Run:
    from torch._inductor import aoti_load_package

    module = aoti_load_package(str(path))
    return lambda image: _arrays(module(image))


def _write_openvino(program: ExportedProgram, subject: Subject, path: Path) -> None:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino") from error
    source = path.with_suffix(".onnx")
    try:
        _write_onnx(program, subject, source)
        model = openvino.convert_model(source)
        for name, text in subject.metadata.items():
            model.set_rt_info(text, ["foveal", name])
        openvino.save_model(model, path, compress_to_fp16=False)
    finally:
        source.unlink(missing_ok=True)
        source.with_name(source.name + ".data").unlink(missing_ok=True)


def _open_openvino(path: Path) -> Run:
    import openvino

    # Full precision on processors that would take half of it by themselves.
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", config)
    return lambda image: list(compiled([image.numpy()]).values())


def _arrays(outputs: Any) -> list[np.ndarray]:
    return [output.detach().cpu().numpy() for output in outputs]


FORMATS: Mapping[str, Format] = {
    "onnx": Format(".onnx", _write_onnx, _open_onnx),
    "torch-export": Format(".pt2", _write_program, _open_program),
    "aoti": Format(".pt2", _write_aoti, _open_aoti),
    "openvino": Format(".xml", _write_openvino, _open_openvino),
    "executorch": Format(".pte", write_executorch, open_executorch, is_bounded=True),
}


def move_beside(source: Path, target: Path) -> list[Path]:
    """Move a file and what lies beside it of the same name; the file itself comes last.

    Returns:
        where they are now, the file itself first.
    """
    others = [p for p in source.parent.iterdir() if p != source and p.is_file()]
    moved = []
    for path in (*others, source):
        place = target.with_name(target.stem + path.name.removeprefix(source.stem))
        shutil.move(path, place)
        moved.insert(0, place)
    return moved
