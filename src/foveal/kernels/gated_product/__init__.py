"""A gate multiplied onto features, the gate or the features activated: the modulations' last step.

Contract. `features` (…, r·c) and `gate` (…, c), r a whole number; the gate repeats over the r
groups of channels:

    out[…, j·c + i] = act(features[…, j·c + i]) · gate[…, i]

`activation` is "gelu" (erf), "tanh" or "none"; the argument of the activation is multiplied by
`scale` first. Computed in float32 or better, the result has the dtype of `features`.
"""

from jaxtyping import Float
from torch import Tensor

from foveal.kernels.dispatch import Backend, dispatch, plain
from foveal.kernels.gated_product import fused, reference

_LADDER = (
    Backend("triton", fused.objection, fused.gated_product),
    plain(reference.gated_product),
)


def gated_product(
    features: Float[Tensor, "*n rc"],
    gate: Float[Tensor, "*n c"],
    activation: str = "none",
    scale: float = 1.0,
    *,
    backend: str = "auto",
) -> Float[Tensor, "*n rc"]:
    """act(scale · features) ⊙ gate, the gate repeated over groups of channels."""
    return dispatch("gated_product", _LADDER, backend, (features, gate, activation, scale))
