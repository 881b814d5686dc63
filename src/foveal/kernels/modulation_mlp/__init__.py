"""EfficientMod's modulation with both layers around it, whose hidden features are never in memory.

Contract. `x` and `context` (…, c), a layer `fc1` of c → r·c channels and a layer `fc2` of r·c → c:

    out = fc2( act(fc1(x)) ⊙ [context, …, context] ),  the context r times

`activation` is "gelu" (erf) or "none". The fused form is for inference and at most 64 channels,
where hidden features are most of what a plain form moves; it computes in float32 and rounds once,
before the second product. The result has the dtype of `x`.
"""

from jaxtyping import Float
from torch import Tensor, nn

from foveal.kernels.dispatch import Backend, dispatch, plain
from foveal.kernels.modulation_mlp import fused, reference

_LADDER = (
    Backend("triton", fused.objection, fused.of_layers),
    plain(reference.modulation_mlp),
)


def modulation_mlp(
    x: Float[Tensor, "*n c"],
    context: Float[Tensor, "*n c"],
    fc1: nn.Linear,
    fc2: nn.Linear,
    activation: str = "gelu",
    *,
    backend: str = "auto",
) -> Float[Tensor, "*n c"]:
    """fc2(act(fc1(x)) ⊙ context), the context repeated over groups of channels."""
    args = (x, context, fc1, fc2, activation)
    return dispatch("modulation_mlp", _LADDER, backend, args, composed=True)
