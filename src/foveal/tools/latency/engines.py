"""What runs a network: PyTorch in several ways, ONNX Runtime, OpenVINO.

An engine first does what is done once in a network's life (exporting, trying memory layouts) and
returns a function that loads it, so that memory is watched while it is loaded and not before.
"""

import copy
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveal.errors import BackendError, MissingExtraError, OptionError, closest
from foveal.tools.export.formats import save_onnx
from foveal.tools.inference import prepare_for_inference
from foveal.tools.latency.parity import TOLERANCES
from foveal.tools.latency.protocol import Call, Contestant, milliseconds_of

CPU = torch.device("cpu")
LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


@dataclass(frozen=True)
class Subject:
    """A network that engines are to run.

    Attributes:
        name: as for `foveal.create_model`.
        model: in eval mode, float32, on the CPU. Engines leave it as it is.
        image_size: side of the images in pixels.
        images: one batch for each turn.
        threads: on the CPU.
        folder: for files that engines write, its own.
    """

    name: str
    model: nn.Module
    image_size: int
    images: Sequence[Tensor]
    threads: int
    folder: Path


@dataclass(frozen=True)
class Loaded:
    """A network in an engine.

    Attributes:
        contestant: what is to be timed.
        compiles: the first call compiles, and what the compiler takes is not the network's memory.
        note: what a reader should know, or "".
        tolerance: on the outputs' difference from eager's over their norm.
    """

    contestant: Contestant
    compiles: bool = False
    note: str = ""
    tolerance: float = TOLERANCES[torch.float32]


@dataclass(frozen=True)
class Prepared:
    """An engine that is ready to load a network.

    Attributes:
        load: loads it.
        device: that it will run on.
        files: that it loads; none if weights in memory are all that it needs.
    """

    load: Callable[[], Loaded]
    device: torch.device = CPU
    files: tuple[Path, ...] = ()


def _eager(subject: Subject) -> Prepared:
    return Prepared(lambda: _in_torch(copy.deepcopy(subject.model), subject))


def _compiled(subject: Subject) -> Prepared:
    def load() -> Loaded:
        return _in_torch(_compile(copy.deepcopy(subject.model)), subject, compiles=True)

    return Prepared(load)


def _prepared(subject: Subject) -> Prepared:
    """All that leaves outputs as they are: the network's own `fuse`, ours, and the layout."""
    if not subject.name.startswith("timm:"):
        # Ours are channels-last inside, whatever the layout of images and weights.
        return Prepared(lambda: _in_torch(prepare_for_inference(subject.model), subject))
    layout = min(LAYOUTS, key=lambda name: _quickest(_fused(subject.model, name), subject, name))

    def load() -> Loaded:
        return _in_torch(_fused(subject.model, layout), subject, layout, note=layout)

    return Prepared(load)


def _fused(model: nn.Module, layout: str) -> nn.Module:
    model = copy.deepcopy(model).to(memory_format=LAYOUTS[layout])  # pyright: ignore[reportCallIssue]
    fuse = getattr(model, "fuse", None)
    if callable(fuse):
        fuse()
    return prepare_for_inference(model)


@torch.inference_mode()
def _quickest(model: nn.Module, subject: Subject, layout: str) -> float:
    """The least of five passes, after one that does not count."""
    inputs = _laid_out(subject.images, layout)
    return min([milliseconds_of(model, inputs, 1, CPU) for _ in range(6)][1:])


def _cuda(subject: Subject) -> Prepared:
    device = _cuda_device()
    return Prepared(lambda: _in_torch(_on(device, subject.model), subject, device=device), device)


def _cuda_compiled(subject: Subject) -> Prepared:
    device = _cuda_device()

    def load() -> Loaded:
        return _in_torch(
            _compile(_on(device, subject.model)), subject, device=device, compiles=True
        )

    return Prepared(load, device)


def _cuda_device() -> torch.device:
    if not torch.cuda.is_available():
        raise BackendError("There is no CUDA device here; leave this engine out.")
    return torch.device("cuda", torch.cuda.current_device())


def _on(device: torch.device, model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).to(device)


def _compile(model: nn.Module) -> Any:
    # The sizes are fixed, and stay so when a second network of the same kind comes with others.
    return torch.compile(model, dynamic=False)


def _in_torch(
    call: Call,
    subject: Subject,
    layout: str = "channels first",
    *,
    device: torch.device = CPU,
    compiles: bool = False,
    note: str = "",
) -> Loaded:
    inputs = [(images.to(device),) for (images,) in _laid_out(subject.images, layout)]
    # A GPU's convolutions compute float32 with float16's eleven bits (TF32) unless told otherwise.
    tolerance = TOLERANCES[torch.float16 if device.type == "cuda" else torch.float32]
    return Loaded(Contestant(call, inputs, device), compiles, note, tolerance)


def _laid_out(images: Sequence[Tensor], layout: str) -> list[tuple[Tensor]]:
    return [(batch.contiguous(memory_format=LAYOUTS[layout]),) for batch in images]


def _onnx(subject: Subject) -> Prepared:
    _require("onnxruntime", "export")
    path = _onnx_path(subject)

    def load() -> Loaded:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = subject.threads
        options.inter_op_num_threads = 1
        # Its threads would go on waiting at full speed after a call, and slow down the next turn's.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            path, sess_options=options, providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name

        def call(images: Any) -> Tensor:
            return torch.from_numpy(session.run(None, {name: images})[0])

        return Loaded(Contestant(call, _arrays(subject), CPU))

    return Prepared(load, files=_files_of(path))


def _openvino(subject: Subject) -> Prepared:
    _require("openvino", "openvino")
    import openvino

    source, path = _onnx_path(subject), subject.folder / "model.xml"
    core = openvino.Core()
    openvino.save_model(core.read_model(source), path, compress_to_fp16=False)

    def load() -> Loaded:
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(subject.threads),
            # The process is pinned already; its own idea of pinning may be of other processors.
            "ENABLE_CPU_PINNING": "NO",
            # Processors with bfloat16 units would silently compute in it.
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = core.compile_model(path, "CPU", settings).create_infer_request()

        def call(images: Any) -> Tensor:
            return torch.from_numpy(request.infer([images], share_inputs=True)[0])

        return Loaded(Contestant(call, _arrays(subject), CPU))

    return Prepared(load, files=(path, path.with_suffix(".bin")))


def _arrays(subject: Subject) -> list[tuple[Any]]:
    return [(images.numpy(),) for images in subject.images]


def _onnx_path(subject: Subject) -> Path:
    """The network's ONNX file, made once for all engines that read it."""
    path = subject.folder / "model.onnx"
    if not path.exists():
        onnx_file(subject.model, subject.image_size, len(subject.images[0]), path)
    return path


def onnx_file(model: nn.Module, image_size: int, batch: int, path: Path) -> None:
    """Write a network as ONNX, its input of one fixed size; large weights go beside it.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
    """
    channels = getattr(model, "in_chans", 3)
    images = torch.zeros(batch, channels, image_size, image_size)
    with torch.no_grad():
        program = torch.export.export(model, (images,))
    # The exporter tells of its progress on standard output, which belongs to the table.
    with redirect_stdout(StringIO()):
        save_onnx(program, path)


def _files_of(path: Path) -> tuple[Path, ...]:
    return tuple(sorted(path.parent.glob(f"{path.name}*")))


def _require(package: str, extra: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise MissingExtraError(package, extra)


ENGINES: dict[str, Callable[[Subject], Prepared]] = {
    "eager": _eager,
    "prepared": _prepared,
    "compiled": _compiled,
    "onnx": _onnx,
    "openvino": _openvino,
    "cuda": _cuda,
    "cuda-compiled": _cuda_compiled,
}


def require_engines(names: Sequence[str]) -> None:
    """Refuse what is no engine.

    Raises:
        OptionError: a name is unknown, with the closest and all; or one is there twice.
    """
    if not names:
        raise OptionError(f"No engine is given; choose from {', '.join(ENGINES)}.")
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"The engine {name!r} is named twice; name each once.")
        if name not in ENGINES:
            raise OptionError(
                f"There is no engine {name!r}.{closest(name, ENGINES)} "
                f"Choose from {', '.join(ENGINES)}."
            )
