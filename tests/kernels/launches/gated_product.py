"""EfficientMod-s at stage 1 and CloFormer-s at stage 1, batch 128, bfloat16."""

import torch


def run(width: int, repeats: int, activation: str):
    def both() -> None:
        from foveal.kernels.gated_product import triton

        size = {"dtype": torch.bfloat16, "device": "meta"}
        features = torch.empty(128, 56, 56, width * repeats, **size)
        gate = torch.empty(128, 56, 56, width, **size)
        triton.forward(features, gate, activation, 1.0)
        triton.backward(torch.empty_like(features), features, gate, activation, 1.0)

    return both


LAUNCHES = {
    "gated_product, gelu, 32 x 6": run(32, 6, "gelu"),
    "gated_product, tanh, 48": run(48, 1, "tanh"),
}

WIDE = {f"{name}.{kernel}" for name in LAUNCHES for kernel in ("forward_kernel", "backward_kernel")}
