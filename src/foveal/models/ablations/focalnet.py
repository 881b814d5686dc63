"""FocalNet's component table: focal modulation with one of its parts left out.

After the component analysis of Yang et al. (NeurIPS 2022, arXiv 2203.11926). Written from the
equations in `foveal/models/focalnet.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveal.errors import OptionError
from foveal.models.ablations.replace import replace_units
from foveal.models.family import Family
from foveal.models.focalnet import FocalModulation, FocalNet, FocalNetConfig

INTERACTIONS = ("product", "sum")


@dataclass(frozen=True, kw_only=True)
class FocalNetAblationConfig(FocalNetConfig):
    """A FocalNet whose modulation lacks what is set to False here.

    Attributes:
        gating: whether gates weigh the levels.
        interaction: of query and modulator, "product" or "sum".
        hierarchy: whether all levels of the chain are used, not its top alone.
        global_level: whether the average over the map is a level.
    """

    gating: bool = True
    interaction: str = "product"
    hierarchy: bool = True
    global_level: bool = True
    focal_levels: int | Sequence[int] = 3
    drop_path_rate: float = 0.2


class AblatedFocalModulation(FocalModulation):
    """Focal modulation without some of its parts, (B, C, H, W) → (B, C, H, W), any C, H and W.

        whole           y = proj( q ⊙ h( Σ_{l=1}^{L+1} g^l ⊙ z^l ) )
        no gating       y = proj( q ⊙ h( Σ_{l=1}^{L+1} z^l ) )
        sum             y = proj( q + h( Σ_{l=1}^{L+1} g^l ⊙ z^l ) )
        no hierarchy    y = proj( q ⊙ h( g^L ⊙ z^L + g^{L+1} ⊙ z^{L+1} ) )
        no global level y = proj( q ⊙ h( Σ_{l=1}^{L} g^l ⊙ z^l ) )

    Args:
        dim, focal_level, focal_window, dilation: as in `FocalModulation`.
        gating, interaction, hierarchy, global_level: as in `FocalNetAblationConfig`.
        use_postln_in_modulation, normalize_modulator: as in `FocalModulation`.
    """

    def __init__(
        self,
        dim: int,
        focal_level: int = 3,
        focal_window: int = 3,
        *,
        gating: bool = True,
        interaction: str = "product",
        hierarchy: bool = True,
        global_level: bool = True,
        use_postln_in_modulation: bool = False,
        normalize_modulator: bool = False,
        dilation: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        if interaction not in INTERACTIONS:
            raise OptionError(f"interaction is 'product' or 'sum', got {interaction!r}.")
        if focal_level == 0 and not global_level:
            raise OptionError("Without the global level, focal_level is at least 1, got 0.")
        super().__init__(
            dim,
            focal_level,
            focal_window,
            use_postln_in_modulation=use_postln_in_modulation,
            normalize_modulator=normalize_modulator,
            dilation=dilation,
            device=device,
            dtype=dtype,
        )
        self.adds = interaction == "sum"
        local = range(focal_level) if hierarchy else range(max(focal_level - 1, 0), focal_level)
        self.levels = [*local, *([focal_level] if global_level else [])]
        self.num_gates = len(self.levels) if gating else 0
        self.f = nn.Linear(dim, 2 * dim + self.num_gates, device=device, dtype=dtype)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, z⁰ and a gate for each level in use, none without gating."""
        q, z, g = self.f(x.permute(0, 2, 3, 1)).split((self.dim, self.dim, self.num_gates), -1)
        return q, z, g

    def _modulator(self, context: Tensor, gates: Tensor) -> Tensor:
        """Step by step, as the steps differ."""
        return self._aggregate(self._contexts(context), gates)

    def _contexts(self, z: Tensor) -> list[Tensor]:
        """The levels in use."""
        contexts = super()._contexts(z)
        return [contexts[level] for level in self.levels]

    def _aggregate(self, contexts: list[Tensor], gates: Tensor) -> Tensor:
        """Σ g^l ⊙ z^l, or Σ z^l."""
        ones = gates.new_ones(()).expand(*gates.shape[:3], len(contexts))
        return super()._aggregate(contexts, gates if self.num_gates else ones)

    def _modulate(self, query: Tensor, modulator: Tensor) -> Tensor:
        """proj(q ⊙ h(m)), or proj(q + h(m))."""
        if not self.adds:
            return super()._modulate(query, modulator)
        return self.proj(self.norm(query + self._mapped(modulator))).permute(0, 3, 1, 2)


class AblatedFocalNet(FocalNet):
    """A FocalNet with `AblatedFocalModulation` in every block."""

    def __init__(
        self,
        config: FocalNetAblationConfig = FocalNetAblationConfig(),
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(config, device=device, dtype=dtype)
        dilations = config.strides(len(config.depths), config.patch_size)[1]

        def ablated(stage: int, old: nn.Module) -> nn.Module:
            assert isinstance(old, FocalModulation)
            first = old.focal_layers[0].kernel_size if old.focal_level else (3,)
            assert isinstance(first, tuple)
            return AblatedFocalModulation(
                old.dim,
                old.focal_level,
                first[0],
                gating=config.gating,
                interaction=config.interaction,
                hierarchy=config.hierarchy,
                global_level=config.global_level,
                use_postln_in_modulation=config.use_postln_in_modulation,
                normalize_modulator=config.normalize_modulator,
                dilation=dilations[stage],
                device=device,
                dtype=dtype,
            )

        replace_units(self, "mixer", ablated)


BODY = Family(AblatedFocalNet, {"focalnet_ablated": FocalNetAblationConfig()}, lambda _: [])
