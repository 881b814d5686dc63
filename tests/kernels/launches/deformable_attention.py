"""DAT++-Tiny at stages 1 and 3 and batch 128, at 1024 pixels, and DAT-Tiny; bfloat16."""

import torch
from torch import Tensor


def run(
    batch: int,
    heads: int,
    groups: int,
    side: int,
    keys: int,
    trained: int,
    corner_aligned: bool,
    features: int = 32,
    dtype: torch.dtype = torch.bfloat16,
):
    def both() -> None:
        from foveal.kernels.deformable_attention import triton

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        # As the mixer has them: heads side by side in a map.
        q = empty(batch, side, side, heads, features, dtype=dtype).permute(0, 3, 1, 2, 4)
        k = empty(batch, keys, heads, features, dtype=dtype).transpose(1, 2)
        positions = empty(batch, groups, keys, 2)
        table = empty(heads, 2 * trained - 1, 2 * trained - 1)
        grid = empty(side)
        bias = (positions, table, grid, grid)
        kept = triton.forward(q, k, k, *bias, corner_aligned, True)
        triton.backward(torch.empty_like(q), q, k, k, *bias, *kept, corner_aligned, True)

    return both


LAUNCHES = {
    "deformable_attention, 56 x 56, 49 keys": run(128, 2, 1, 56, 49, 56, True),
    "deformable_attention, 14 x 14, 49 keys": run(128, 8, 4, 14, 49, 14, True),
    "deformable_attention, 256 x 256, 1024 keys": run(1, 2, 1, 256, 1024, 56, True),
    "deformable_attention, DAT, 14 x 14, 196 keys": run(128, 12, 3, 14, 196, 14, False),
    "deformable_attention, float32, 24 features": run(8, 4, 2, 28, 49, 28, True, 24, torch.float32),
}

WIDE = {
    f"{name}.{kernel}_kernel"
    for name in LAUNCHES
    if "float32" not in name
    for kernel in ("forward", "query", "key")
}
