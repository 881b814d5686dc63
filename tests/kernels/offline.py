"""Compile every kernel for GPUs that are not there, and say what the compiler made of it.

    python tests/kernels/offline.py          # a table
    python tests/kernels/offline.py --json   # for the tests

Each operator's `tests/kernels/launches/OPERATOR.py` runs its forward and backward pass on tensors
without memory, at the sizes of published networks; launches are recorded instead of made.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import triton
from tests.kernels.launches import LAUNCHES
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from foveal.kernels import launch
from foveal.kernels.tuning import Blocks

CAPABILITIES = (80, 90)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.int32: "*i32",
}


@dataclass(frozen=True)
class Compiled:
    """What became of one kernel at one launch.

    Attributes:
        name: operator, what was run, and the kernel.
        capability: 80 or 90.
        registers: of a thread.
        spilled: bytes of stack a thread needs.
        widest_load: bits of the widest load from memory.
    """

    name: str
    capability: int
    registers: int
    spilled: int
    widest_load: int


def recorded(run) -> list[tuple]:
    """The launches that `run` makes: kernel, arguments, blocks, constants."""
    found = []

    def record(kernel, grid, *args: object, blocks: Blocks, **constants: object) -> None:
        found.append((kernel, args, blocks, constants))

    with mock.patch.object(launch, "run", record):
        run()
    return found


def compiled(name: str, recording: tuple, capability: int) -> Compiled:
    kernel, args, blocks, constants = recording
    names = kernel.arg_names
    signature, attributes = {}, {}
    constants = {**constants, **blocks.sizes}
    for index, (parameter, arg) in enumerate(zip(names, args, strict=False)):
        if arg is None or (isinstance(arg, int) and arg == 1):
            # So the runtime specializes them too.
            constants[parameter] = arg
            signature[parameter] = "constexpr"
            continue
        signature[parameter] = _type(arg)
        if isinstance(arg, Tensor) or (isinstance(arg, int) and arg % 16 == 0):
            attributes[(index,)] = [["tt.divisibility", 16]]
    for parameter in constants:
        signature[parameter] = "constexpr"
    indexed = {(names.index(k),): v for k, v in constants.items()}
    source = ASTSource(kernel, signature, indexed, attributes)
    options = {"num_warps": blocks.warps, "num_stages": blocks.stages, "enable_fp_fusion": True}
    made = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers = int(re.findall(r"REG:(\d+)", usage)[-1])
    stack = int(re.findall(r"STACK:(\d+)", usage)[-1])
    return Compiled(
        f"{name}.{kernel.__name__}", capability, registers, stack, _widest(made.asm["ptx"])
    )


def _type(arg: object) -> str:
    if isinstance(arg, Tensor):
        return POINTERS[arg.dtype]
    if isinstance(arg, float):
        return "fp32"
    assert isinstance(arg, int)
    return "i32" if arg < 2**31 else "i64"


def _widest(ptx: str) -> int:
    """Bits of the widest ld.global, e.g. `ld.global.v4.b32`."""
    loads = re.findall(
        r"ld\.global(?:\.\w+::\w+)*(?:\.nc)?(?:\.\w+::\w+)*(?:\.v(\d))?\.\w(\d+)", ptx
    )
    return max((int(lanes or 1) * int(bits) for lanes, bits in loads), default=0)


def everything() -> list[Compiled]:
    found = []
    for name, run in LAUNCHES.items():
        for recording in recorded(run):
            found += [compiled(name, recording, c) for c in CAPABILITIES]
    return found


def main() -> None:
    found = everything()
    if "--json" in sys.argv:
        print(json.dumps([asdict(one) for one in found]))
        return
    print(f"triton {triton.__version__}")
    for one in found:
        print(f"sm_{one.capability}  {one.registers:3d} registers  {one.spilled:4d} B spilled  "
              f"{one.widest_load:3d}-bit loads  {one.name}")  # fmt: skip


if __name__ == "__main__":
    main()
