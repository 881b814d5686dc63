"""The position bias of deformable attention, in the forms that the official code knows."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import OptionError
from foveal.kernels import deformable_attention as deformable

FORMS = ("table", "fixed", "log_cpb", "dwc", "none")
HIDDEN = 32


class PositionBias(nn.Module):
    """What is added to the logits, as a function of where queries and keys are.

    Args:
        form: "table": one value per displacement, read between the cells; "fixed": one per pair of
            query and key, resized at other sizes; "log_cpb": an MLP of the log-spaced displacement;
            "none", and "dwc", which adds to the output of the attention instead.
        num_heads, num_groups: heads, and groups of heads that share their keys' positions.
        queries, keys: sides of both grids at the trained size.
    """

    def __init__(
        self,
        form: str,
        num_heads: int,
        num_groups: int,
        queries: tuple[int, int],
        keys: tuple[int, int],
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if form not in FORMS:
            raise OptionError(f"position_bias is one of {', '.join(FORMS)}, got {form!r}.")
        dd = {"device": device, "dtype": dtype}
        self.form, self.queries, self.keys = form, queries, keys
        h, w = queries
        shapes = {"table": (2 * h - 1, 2 * w - 1), "fixed": (h * w, keys[0] * keys[1])}
        if form in shapes:
            self.table = nn.Parameter(torch.empty((num_heads, *shapes[form]), **dd))
            nn.init.trunc_normal_(self.table, std=0.01)
        if form == "log_cpb":
            self.fc1 = nn.Linear(2, HIDDEN, **dd)
            self.fc2 = nn.Linear(HIDDEN, num_heads // num_groups, bias=False, **dd)

    def forward(
        self,
        positions: Float[Tensor, "b g hk wk 2"],
        query_y: Float[Tensor, "h"],
        query_x: Float[Tensor, "w"],
    ) -> deformable.Bias | None:
        points = positions.flatten(2, 3)
        if self.form == "table":
            return deformable.table_bias(self.table, points, query_y, query_x)
        if self.form == "log_cpb":
            return deformable.log_bias(self._mlp, HIDDEN, points, query_y, query_x)
        if self.form == "fixed":
            queries = (query_y.shape[0], query_x.shape[0])
            keys = (positions.shape[2], positions.shape[3])
            sides = (self.queries, self.keys, queries, keys)
            return deformable.fixed_bias(self.table, *sides, points.dtype)
        return None

    def _mlp(self, displacements: Tensor) -> Tensor:
        dtype, bias = displacements.dtype, self.fc1.bias
        hidden = F.linear(displacements, self.fc1.weight.to(dtype), bias.to(dtype)).relu()
        return F.linear(hidden, self.fc2.weight.to(dtype))
