"""A depthwise convolution with what usually follows it: residual, activation and gate in one pass.

Contract. `x` (b, h, w, c), one k × k filter a channel, k odd, stride 1, zeros around the map, steps
of `dilation`:

    a[y, x, c] = bias[c] + Σ_{i, j} weight[c, 0, i, j] · x[y + d(i − k//2), x + d(j − k//2), c]
    out = act(a + residual · x) ⊙ gate

`activation` is "none", "gelu" (erf) or "silu"; `gate` has the shape of `x`, and both may be slices
of a wider tensor's channels. The fused form computes in float32; the result has the dtype of `x`.
"""

from jaxtyping import Float
from torch import Tensor

from foveal.kernels.depthwise_convolution import fused, onednn, reference
from foveal.kernels.dispatch import Backend, dispatch, plain

_LADDER = (
    Backend("triton", fused.objection, fused.depthwise_convolution),
    Backend("onednn", onednn.objection, onednn.depthwise_convolution, "cpu"),
    plain(reference.depthwise_convolution),
)


def depthwise_convolution(
    x: Float[Tensor, "b h w c"],
    weight: Float[Tensor, "c 1 k k"],
    bias: Float[Tensor, " c"] | None = None,
    *,
    gate: Float[Tensor, "b h w c"] | None = None,
    residual: bool = False,
    activation: str = "none",
    dilation: int = 1,
    backend: str = "auto",
) -> Float[Tensor, "b h w c"]:
    """act(DW(x) + bias + x) ⊙ gate, each of the last three if asked for."""
    args = (x, weight, bias, gate, residual, activation, dilation)
    return dispatch("depthwise_convolution", _LADDER, backend, args)
