"""Block sizes, warps and stages of every kernel, by the version of Triton where they differ.

The defaults were chosen by what the compiler says without a GPU (registers, no spills, the width of
loads: `python tests/kernels/offline.py`); no time stands behind them.
"""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple


class Blocks(NamedTuple):
    """What a kernel is launched with.

    Attributes:
        sizes: of its blocks, by the kernel's own names.
        warps, stages: of a program.
    """

    sizes: Mapping[str, int]
    warps: int = 4
    stages: int = 2


def blocks(kernel: str) -> Blocks:
    """The entry of a kernel, "operator.kernel"."""
    return _OF_VERSION.get((_triton(), kernel)) or _DEFAULT[kernel]


def _triton() -> str:
    try:
        return ".".join(version("triton").split(".")[:2])
    except PackageNotFoundError:
        return ""


_DEFAULT = {
    # One stage: in more, Triton copies what the look-up gathers to shared memory.
    "deformable_attention.forward": Blocks({"BM": 64, "BN": 32}, stages=1),
    "deformable_attention.query": Blocks({"BM": 64, "BN": 16}, stages=1),
    "deformable_attention.key": Blocks({"BM": 64, "BN": 16}, stages=1),
    "deformable_attention.forward_float32": Blocks({"BM": 32, "BN": 32}, warps=8, stages=1),
    "deformable_attention.query_float32": Blocks({"BM": 32, "BN": 32}, warps=8, stages=1),
    "deformable_attention.key_float32": Blocks({"BM": 32, "BN": 16}, stages=1),
    "deformable_attention.table": Blocks({"BY": 16, "BX": 32, "BR": 64, "BC": 64}, stages=1),
    "gated_product.forward": Blocks({"BR": 16, "BC": 64}),
    "gated_product.backward": Blocks({"BR": 16, "BC": 64}),
}

# (version of Triton, kernel): what that version needs instead.
_OF_VERSION: dict[tuple[str, str], Blocks] = {
    ("3.6", "deformable_attention.key"): Blocks({"BM": 32, "BN": 16}, stages=1),
}
