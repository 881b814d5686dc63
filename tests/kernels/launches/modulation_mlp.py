"""EfficientMod at its first stages, batch 128, in half precision and float32."""

import torch


def run(side: int, width: int, ratio: int, dtype: torch.dtype):
    def forward() -> None:
        from foveal.kernels.modulation_mlp import triton

        size = {"dtype": dtype, "device": "meta"}
        x = torch.empty(128, side, side, width, **size)
        layers = (
            torch.empty(ratio * width, width, **size),
            torch.empty(ratio * width, **size),
            torch.empty(width, ratio * width, **size),
            torch.empty(width, **size),
        )
        triton.forward(x, torch.empty_like(x), layers, "gelu")

    return forward


LAUNCHES = {
    "modulation MLP, 32 x 6": run(56, 32, 6, torch.bfloat16),
    "modulation MLP, 64 x 6": run(28, 64, 6, torch.bfloat16),
    "modulation MLP, 32 x 6, float32": run(56, 32, 6, torch.float32),
    "modulation MLP, 64 x 6, float32": run(28, 64, 6, torch.float32),
}

WIDE = {f"{name}.forward_kernel" for name in LAUNCHES}
