"""DAT++-Tiny at its first and third stage, batch 128, bfloat16; and the largest neighbourhood."""

import torch


def run(side: int, heads: int, *, kernel: int = 7, d: int = 32, dtype=torch.bfloat16):
    def both() -> None:
        from foveal.kernels.neighborhood_attention import triton

        size = {"dtype": dtype, "device": "meta"}
        q, k, v = torch.empty(128, side, side, 3, heads, d, **size).unbind(3)
        bias = torch.empty(heads, 2 * kernel - 1, 2 * kernel - 1, device="meta")
        out, lse = triton.forward(q, k, v, bias, (side, side), kernel)
        triton.backward(torch.empty_like(out), q, k, v, bias, out, lse, kernel)

    return both


LAUNCHES = {
    "neighborhood_attention, stage 1": run(56, 2),
    "neighborhood_attention, stage 3": run(14, 8),
    "neighborhood_attention, 13 a side": run(56, 2, kernel=13),
    "neighborhood_attention, 128 channels": run(28, 4, d=128),
    "neighborhood_attention, float32": run(28, 4, dtype=torch.float32),
    "neighborhood_attention, float32, 64 channels": run(28, 4, d=64, dtype=torch.float32),
    "neighborhood_attention, float32, 128 channels": run(28, 4, d=128, dtype=torch.float32),
}

KERNELS = ("forward_kernel", "d_query_kernel", "d_key_value_kernel")
WIDE = {f"{name}.{kernel}" for name in LAUNCHES for kernel in KERNELS}
