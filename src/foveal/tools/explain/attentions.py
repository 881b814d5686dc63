"""Readings of the attentions of TransNeXt, CloFormer and EfficientMod."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from torch import Tensor

from foveal.models.cloformer import CloAttention
from foveal.models.transnext import AggregatedAttention
from foveal.tools.explain.attention import QueryAttention, entropy
from foveal.tools.explain.reading import AttentionReading, arrays_of


@dataclass(frozen=True, eq=False)
class AggregatedAttentionReading(AttentionReading):
    """Aggregated attention (TransNeXt): a window and a pooled map in one softmax.

    Attributes:
        local_attention: of the window's cells in row-major order, 0 off the map.
        positional_attention: q̂·T + t_b, added to the former, unbounded.
        pooled_attention: of the pooled cells; sums to 1 together with local_attention.
        temperature: softplus(τ) of every head, above 0.
        value, pooled_value: what the weights are applied to.
    """

    local_attention: Float[np.ndarray, "b heads h w k2"]
    positional_attention: Float[np.ndarray, "b heads h w k2"]
    pooled_attention: Float[np.ndarray, "b heads h w hp wp"]
    temperature: Float[np.ndarray, " heads"]
    value: Float[np.ndarray, "b c h w"]
    pooled_value: Float[np.ndarray, "b c hp wp"]
    kind = "aggregated attention"

    @classmethod
    def of(cls, mixer: AggregatedAttention, x: Float[Tensor, "b c h w"]) -> Self:
        """See `Reading.of`."""
        return cls(**arrays_of(mixer, x))

    @property
    def size(self) -> tuple[int, int]:
        """See `AttentionReading.size`."""
        return self.local_attention.shape[2], self.local_attention.shape[3]

    @property
    def window_share(self) -> Float[np.ndarray, "b heads h w"]:
        """How much of the softmax the window takes, in [0, 1]: sharp over dim sight."""
        return self.local_attention.sum(-1)

    @property
    def entropy(self) -> Float[np.ndarray, "b heads h w"]:
        """Of the softmax, in nats: 0 for one key, log of their number for all alike."""
        return entropy(self.local_attention, self.pooled_attention.reshape(*self._shape, -1))

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.local_attention.shape[:-1]

    def attention_of(self, y: int, x: int, image: int = 0) -> QueryAttention:
        """See `AttentionReading.attention_of`; without the positional part."""
        y, x = self.cell(y, x)
        heads, (h, w) = len(self.temperature), self.size
        side = round(self.local_attention.shape[-1] ** 0.5)
        grid = self.pooled_attention[image, :, y, x]
        return QueryAttention(
            (y, x),
            (h, w),
            grid=grid,
            cell=(h / grid.shape[1], w / grid.shape[2]),
            window=self.local_attention[image, :, y, x].reshape(heads, side, side),
            corner=(y - side // 2, x - side // 2),
        )


@dataclass(frozen=True, eq=False)
class FullAttentionReading(AttentionReading):
    """Attention of every position to every position (TransNeXt's last stage, EfficientMod).

    Attributes:
        attention: sums to 1 over the last two axes.
        temperature: softplus(τ) of every head, above 0; None without a learned one.
        value: what the weights are applied to.
    """

    attention: Float[np.ndarray, "b heads h w h w"]
    temperature: Float[np.ndarray, " heads"] | None
    value: Float[np.ndarray, "b c h w"]
    kind = "full attention"

    @classmethod
    def of(cls, mixer: Any, x: Float[Tensor, "b c h w"]) -> Self:
        """See `Reading.of`."""
        arrays = arrays_of(mixer, x)
        attention, value = arrays["attention"], arrays["value"]
        if attention.ndim == 4:
            size = tuple(x.shape[2:])
            attention = attention.reshape(*attention.shape[:2], *size, *size)
            value = np.moveaxis(value, 2, 3).reshape(len(value), -1, *size)
        return cls(attention, arrays.get("temperature"), value)

    @property
    def size(self) -> tuple[int, int]:
        """See `AttentionReading.size`."""
        return self.attention.shape[2], self.attention.shape[3]

    @property
    def entropy(self) -> Float[np.ndarray, "b heads h w"]:
        """Of the softmax, in nats: 0 for one key, log of their number for all alike."""
        return entropy(self.attention.reshape(*self.attention.shape[:4], -1))

    def attention_of(self, y: int, x: int, image: int = 0) -> QueryAttention:
        """See `AttentionReading.attention_of`."""
        y, x = self.cell(y, x)
        return QueryAttention((y, x), self.size, grid=self.attention[image, :, y, x])


@dataclass(frozen=True, eq=False)
class CloAttentionReading(AttentionReading):
    """AttnConv beside pooled attention (CloFormer); a group of heads each.

    Attributes:
        local_weights: context-aware weights of each local group, in (−1, 1).
        local_values: what they multiply.
        attention: of every query over the pooled cells, sums to 1 over the last two axes; None
            without a global branch.
        value: of the pooled cells, what it is applied to; None likewise.
        map_size: rows and columns of the map.
        pooling: rows and columns of the map that a pooled cell averages.
    """

    local_weights: tuple[Float[np.ndarray, "b g h w"], ...]
    local_values: tuple[Float[np.ndarray, "b g h w"], ...]
    attention: Float[np.ndarray, "b heads h w hk wk"] | None
    value: Float[np.ndarray, "b heads n d"] | None
    map_size: tuple[int, int]
    pooling: int
    kind = "AttnConv and pooled attention"

    @classmethod
    def of(cls, mixer: CloAttention, x: Float[Tensor, "b c h w"]) -> Self:
        """See `Reading.of`."""
        arrays = arrays_of(mixer, x)
        groups = range(len(mixer.local))
        h, w = x.shape[2:]
        attention = arrays.get("attention")
        pooling = 1 if mixer.pooled is None else mixer.pooled.window_size
        if attention is not None:
            keys = (-(-h // pooling), -(-w // pooling))
            attention = attention.reshape(*attention.shape[:2], h, w, *keys)
        return cls(
            tuple(arrays[f"local_weights_{i}"] for i in groups),
            tuple(arrays[f"local_value_{i}"] for i in groups),
            attention,
            arrays.get("value"),
            (h, w),
            pooling,
        )

    @property
    def size(self) -> tuple[int, int]:
        """See `AttentionReading.size`."""
        return self.map_size

    @property
    def local_output(self) -> Float[np.ndarray, "b g h w"] | None:
        """What the local branch puts out, the weights times the values; None without one."""
        if not self.local_weights:
            return None
        pairs = zip(self.local_weights, self.local_values, strict=True)
        return np.concatenate([weights * values for weights, values in pairs], 1)

    @property
    def global_output(self) -> Float[np.ndarray, "b g h w"] | None:
        """What the global branch puts out, attention applied to the values; None without one."""
        if self.attention is None or self.value is None:
            return None
        weights = self.attention.reshape(*self.attention.shape[:4], -1)
        out = np.einsum("bnyxk,bnkd->bndyx", weights, self.value)
        return out.reshape(len(out), -1, *self.size)

    def attention_of(self, y: int, x: int, image: int = 0) -> QueryAttention:
        """See `AttentionReading.attention_of`; of the global branch.

        Raises:
            ValueError: there is no global branch.
        """
        y, x = self.cell(y, x)
        if self.attention is None:
            raise ValueError("This CloAttention has no global branch, so no query attends.")
        grid, cell = self.attention[image, :, y, x], (self.pooling, self.pooling)
        return QueryAttention((y, x), self.size, grid=grid, cell=cell)
