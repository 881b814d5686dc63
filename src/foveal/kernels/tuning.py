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


def _depthwise(kernel: str, columns: Mapping[int, int]) -> dict[str, Blocks]:
    """For every size of filter, for channels in multiples of 64 ("wide") and others ("narrow").

    Args:
        kernel: "operator.kernel".
        columns: TW, by the size of the filter, where it is not 4.
    """
    shapes = {"wide": {"BH": 16, "BC": 64}, "narrow": {"BH": 32, "BC": 32}}
    return {
        f"{kernel}.{size}.{name}": Blocks({**shape, "TW": columns.get(size, 4)}, stages=1)
        for size in range(1, 15, 2)
        for name, shape in shapes.items()
    }


_DEFAULT = {
    "aggregated_attention.forward": Blocks({"BM": 64, "BN": 32}, warps=8, stages=1),
    "aggregated_attention.queries": Blocks({"BM": 64, "BN": 64}, warps=8, stages=1),
    "aggregated_attention.window": Blocks({"BM": 64}, warps=8, stages=1),
    "aggregated_attention.keys": Blocks({"BM": 64}, warps=8, stages=1),
    "aggregated_attention.pooled": Blocks({"BM": 64, "BN": 32}, warps=4, stages=1),
    "aggregated_attention.table": Blocks({"BC": 128}, warps=4, stages=1),
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
    "depthwise_convolution.epilogue_backward": Blocks({"BP": 16, "BC": 64}),
    **_depthwise("depthwise_convolution.forward", {}),
    # It holds an accumulator a tap: at 13, four columns more nearly fill the registers.
    **_depthwise("depthwise_convolution.weight", {13: 2}),
    **_depthwise("focal_aggregation.level", {}),
    **_depthwise("focal_aggregation.level_backward", {}),
    "focal_aggregation.global": Blocks({"BP": 16, "BC": 64}),
    "focal_aggregation.global_backward": Blocks({"BP": 16, "BC": 64, "STEPS": 16}),
    **{
        f"modulation_mlp.{precision}.{width}": Blocks({"BR": rows}, warps, stages=1)
        for width, warps in ((32, 4), (64, 8))
        for precision, rows in (("half", 64), ("float32", 16))
    },
    # "deep" where the channels of a head take more than 64 bytes, "deepest" beyond 256.
    "neighborhood_attention.forward": Blocks({"BY": 8, "BX": 8, "BN": 32, "IMAGES": 2}),
    "neighborhood_attention.forward.deep": Blocks({"BY": 8, "BX": 8, "BN": 16, "IMAGES": 1}, 4, 1),
    "neighborhood_attention.forward.deepest": Blocks(
        {"BY": 4, "BX": 4, "BN": 16, "IMAGES": 1}, 4, 1
    ),
    "neighborhood_attention.d_query": Blocks({"BY": 8, "BX": 8, "BN": 32, "IMAGES": 2}),
    "neighborhood_attention.d_query.deep": Blocks({"BY": 8, "BX": 8, "BN": 16, "IMAGES": 1}, 4, 1),
    "neighborhood_attention.d_query.deepest": Blocks(
        {"BY": 4, "BX": 4, "BN": 16, "IMAGES": 1}, 8, 1
    ),
    "neighborhood_attention.d_key_value": Blocks({"BY": 8, "BX": 8, "BN": 32, "IMAGES": 2}),
    "neighborhood_attention.d_key_value.deep": Blocks(
        {"BY": 4, "BX": 8, "BN": 16, "IMAGES": 1}, 4, 1
    ),
    "neighborhood_attention.d_key_value.deepest": Blocks(
        {"BY": 4, "BX": 4, "BN": 16, "IMAGES": 1}, 4, 1
    ),
    "neighborhood_attention.d_bias": Blocks({"BP": 64}),
}

# (version of Triton, kernel): what that version needs instead.
_OF_VERSION: dict[tuple[str, str], Blocks] = {
    ("3.6", "aggregated_attention.queries"): Blocks({"BM": 64, "BN": 32}, warps=8, stages=1),
    ("3.6", "neighborhood_attention.d_key_value"): Blocks(
        {"BY": 8, "BX": 8, "BN": 32, "IMAGES": 1}
    ),
    ("3.6", "deformable_attention.key"): Blocks({"BM": 32, "BN": 16}, stages=1),
}
