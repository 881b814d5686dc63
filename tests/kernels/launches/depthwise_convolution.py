"""Depthwise convolutions of published networks, batch 128, bfloat16.

TransNeXt-Tiny's ConvGLU on halves of one tensor, the context of EfficientMod-s, the local branch of
CloFormer, and the widest filter of FocalNet's detectors.
"""

import torch


def run(size: int, side: int, channels: int, *, gate: bool = False, activation: str = "none"):
    def both() -> None:
        from foveal.kernels.depthwise_convolution import triton

        kind = {"dtype": torch.bfloat16, "device": "meta"}
        x, opened = torch.empty(128, side, side, 2 * channels, **kind).chunk(2, -1)
        weight = torch.empty(channels, 1, size, size, dtype=torch.float32, device="meta")
        bias = torch.empty(channels, dtype=torch.float32, device="meta")
        opened = opened if gate else None
        out, kept = triton.forward(x, weight, bias, opened, False, activation, 1, True)
        if activation == "none":
            kept = x.new_empty(0)
        options = (False, activation, 1, [True, True, True, gate])
        triton.backward(torch.empty_like(out), x, weight, opened, kept, *options)

    return both


LAUNCHES = {
    "depthwise, k 3, 256 at 56, gelu, gate": run(3, 56, 256, gate=True, activation="gelu"),
    "depthwise, k 3, 1024 at 7, gelu, gate": run(3, 7, 1024, gate=True, activation="gelu"),
    "depthwise, k 7, 32 at 56, gelu": run(7, 56, 32, activation="gelu"),
    "depthwise, k 5, 96 at 56": run(5, 56, 96),
    "depthwise, k 13, 96 at 56, gelu": run(13, 56, 96, activation="gelu"),
}

WIDE = {f"{name}.{kernel}" for name in LAUNCHES for kernel in ("forward_kernel", "weight_kernel")}
