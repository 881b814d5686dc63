"""TransNeXt's log-spaced continuous position bias, which both of its attentions own one of."""

from torch import nn

from foveal.errors import OptionError
from foveal.kernels.position_bias import BiasMLP, LogSpacedBias
from foveal.kernels.precision import at_least_float32, full_precision


class LogSpacedPositionBias(nn.Module):
    """B: an MLP of the log-spaced displacement between query and key, a value per head.

    Args:
        num_heads: of the attention.
        pretrain_size: side in cells of the map that it is calibrated to.
        mode: "extrapolate" or "interpolate", to other sizes.
    """

    def __init__(self, num_heads: int, pretrain_size: int, mode: str, **dd):
        super().__init__()
        if mode not in ("extrapolate", "interpolate"):
            raise OptionError(f"position_bias is 'extrapolate' or 'interpolate', got {mode!r}.")
        if pretrain_size < 1:
            raise OptionError(f"pretrain_size is a side from 1 cell up, got {pretrain_size}.")
        self.pretrain_size = pretrain_size
        self.mode = mode
        self.fc1 = nn.Linear(2, 512, **dd)
        self.fc2 = nn.Linear(512, num_heads, **dd)

    def forward(self, pretrain_cells: int) -> LogSpacedBias:
        """The bias, calibrated to `pretrain_cells` keys a side if it interpolates."""
        weights = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        with full_precision(self.fc1.weight):
            mlp = BiasMLP(*(at_least_float32(weight) for weight in weights))
        extrapolate = self.mode == "extrapolate"
        return LogSpacedBias(mlp, self.pretrain_size, None if extrapolate else pretrain_cells)
