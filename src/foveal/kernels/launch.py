"""How every kernel is launched: one place for device, compiler options and block sizes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foveal.kernels.tuning import Blocks


def cdiv(n: int, block: int) -> int:
    """Blocks that cover n."""
    return -(-n // block)


def power_of_two(n: int) -> int:
    """The smallest power of two that n fits in."""
    return 1 << max(n - 1, 0).bit_length()


def run(kernel, grid: Sequence[int], *args: object, blocks: Blocks, **constants: object) -> None:
    """Launch a kernel on the device of its first tensor, whichever device is the current one.

    Args:
        kernel: a function decorated by `triton.jit`.
        grid: programs along up to three axes.
        args: tensors and numbers, in the kernel's order.
        blocks: block sizes, warps and stages, from `foveal.kernels.tuning`.
        constants: the kernel's other compile-time arguments.
    """
    settings = {**constants, **blocks.sizes}
    # Triton 3.10 turns the fusion of multiplication and addition off unless it is asked for.
    options = {"num_warps": blocks.warps, "num_stages": blocks.stages, "enable_fp_fusion": True}
    tensor = next(arg for arg in args if isinstance(arg, Tensor))
    if not tensor.is_cuda:
        kernel[tuple(grid)](*args, **settings, **options)
        return
    with torch.cuda.device_of(tensor):
        kernel[tuple(grid)](*args, **settings, **options)
