"""TransNeXt-tiny at stages 1 and 3 with the bias of all pairs, and its table; batch 128, bfloat16.

Queries are a linear layer's output, keys and values the halves of another's, as in the network.
"""

import torch


def run(side: int, cells: int, heads: int, *, table: bool = False, channels: int = 24):
    def both() -> None:
        from foveal.kernels.aggregated_attention import triton, triton_backward

        def made(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.empty(shape, dtype=dtype, device="meta")

        low = torch.bfloat16
        query = made(128, side, side, heads, channels, dtype=low)
        keys_values = made(128, side, side, 2, heads, channels, dtype=low).unbind(3)
        pooled = made(128, cells, cells, 2, heads, channels, dtype=low).unbind(3)
        terms = [(heads, channels), (heads,), (heads, 9), (heads, channels, 9), (heads, 9)]
        bias = (made(heads, side, side, cells, cells), None, None)
        if table:
            indices = [made(side, cells, dtype=torch.int64) for _ in range(2)]
            bias = (made(4 * side - 3, 4 * side - 3, heads), *indices)
        tensors = (query, *keys_values, *pooled, *(made(*shape) for shape in terms), *bias)
        out, norms = triton.forward(tensors)
        triton_backward.backward(out, norms, tensors)

    return both


LAUNCHES = {
    "aggregated attention, 56 x 56, 3 heads": run(56, 7, 3),
    "aggregated attention, 14 x 14, 12 heads": run(14, 7, 12),
    "aggregated attention, 128 x 128, 3 heads, table": run(128, 16, 3, table=True),
}

# Heads of 24 channels are 48 bytes, three loads of 16.
WIDE = {
    f"{name}.{kernel}_kernel"
    for name in LAUNCHES
    for kernel in ("forward", "query", "window", "key", "pooled")
}
