"""FocalNet's aggregation at stages 1 and 4 of the tiny networks, batch 128, bfloat16."""

import torch


def run(side: int, channels: int, kernels: tuple[int, ...]):
    def both() -> None:
        from foveal.kernels.focal_aggregation import triton

        kind = {"dtype": torch.bfloat16, "device": "meta"}
        levels = len(kernels) + 1
        projected = torch.empty(128, side, side, 2 * channels + levels, **kind)
        _, context, gates = projected.split((channels, channels, levels), -1)
        filters = [torch.empty(channels, 1, k, k, device="meta") for k in kernels]
        out, kept, mean = triton.forward(context, gates, filters, 1, False, True)
        triton.backward(torch.empty_like(out), context, gates, filters, kept, mean, 1, False)

    return both


LAUNCHES = {
    "focal, k 3 5, 96 at 56": run(56, 96, (3, 5)),
    "focal, k 3 5 7, 768 at 7": run(7, 768, (3, 5, 7)),
    "focal, k 9 11 13, 192 at 56": run(56, 192, (9, 11, 13)),
}

WIDE = {
    f"{name}.{kernel}"
    for name in LAUNCHES
    for kernel in (
        "level_kernel",
        "level_backward_kernel",
        "global_kernel",
        "global_backward_kernel",
        "forward_kernel",
        "weight_kernel",
    )
}
