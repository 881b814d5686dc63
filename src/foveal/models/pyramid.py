"""A backbone as a pyramid of maps, for heads that look at several scales."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from foveal.errors import OptionError
from foveal.models.backbone import Backbone
from foveal.models.checkpoint import load_checkpoint
from foveal.models.factory import create_model

# That every hierarchical network has; some of timm's have a map of the stem before them.
NUM_STAGES = 4


class Pyramid(nn.Module):
    """The maps of a backbone's stages, finest first.

    The maps of stages without a norm of their own get a layer norm each, as the papers' detectors
    do; maps of timm's networks are left as they are.

    Args:
        name: as for `foveal.create_model`, "timm:NAME" for timm's.
        out_indices: which stages; 0 is that of 4 pixels a cell, also where there is a finer map.
        pretrained: load the published weights.
        checkpoint: a file of classification weights to load instead.
        **options: of the network, such as `drop_path_rate` and `in_chans`.

    Attributes:
        model: the network without head and without what the chosen maps do not need; its keys are
            those of a classifier's checkpoint.
        channels: of each map.
        reductions: pixels per cell of each map.
        notes: what was done to make the weights of `checkpoint` fit.

    Raises:
        OptionError: a network of timm's without maps, or for images of one size alone.
    """

    def __init__(
        self,
        name: str,
        *,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        pretrained: bool = False,
        checkpoint: str | None = None,
        **options: Any,
    ):
        super().__init__()
        model: Any = create_model(name, pretrained=pretrained, num_classes=0, **options)
        if not hasattr(model, "forward_intermediates"):
            raise OptionError(f"{name} has no maps of several scales; choose another backbone.")
        _require_any_size(name, model, options)
        self.notes = [str(load_checkpoint(model, checkpoint))] if checkpoint else []
        finer = max(0, len(model.feature_info) - NUM_STAGES)
        wanted = [finer + index for index in out_indices]
        self.out_indices = tuple(model.prune_intermediate_layers(wanted, True, True))
        self.model = model
        taps = [model.feature_info[index] for index in self.out_indices]
        self.channels = [int(tap["num_chs"]) for tap in taps]
        self.reductions = [int(tap["reduction"]) for tap in taps]
        self.norms = nn.ModuleList(
            LayerNorm2d(channels) if self._lacks_norm(index) else nn.Identity()
            for index, channels in zip(self.out_indices, self.channels, strict=True)
        )

    def _lacks_norm(self, index: int) -> bool:
        """Whether the last thing that a stage does is to add a branch."""
        if not isinstance(self.model, Backbone) or self.model.isotropic:
            return False
        norm: Any = getattr(self.model.stages[index], "norm", None)
        return isinstance(norm, nn.Identity)

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d h2 w2"]]:
        """Images, 32 pixels or more a side, to maps."""
        maps = self.model.forward_intermediates(
            x, indices=list(self.out_indices), stop_early=True, intermediates_only=True
        )
        return [norm(tapped) for norm, tapped in zip(self.norms, maps, strict=True)]


def _require_any_size(name: str, model: Any, options: Mapping[str, Any]) -> None:
    is_freed = options.get("strict_img_size") is False or options.get("dynamic_img_size") is True
    if not is_freed and getattr(model, "pretrained_cfg", {}).get("fixed_input_size"):
        raise OptionError(
            f"{name} takes images of one size alone, and maps are needed of any; choose another "
            "backbone, or the option strict_img_size=false where it has that."
        )


class OnPyramid(nn.Module):
    """A network with a `Pyramid` somewhere inside: its weights in layers, from stem to head.

    With it timm's layer-wise decay, our `freeze` and gradient checkpointing reach the backbone;
    everything else counts as head.
    """

    def pyramid(self) -> Pyramid:
        """The backbone."""
        return next(module for module in self.modules() if isinstance(module, Pyramid))

    def backbone_prefix(self) -> str:
        """What the keys of the backbone's weights start with, its dot included."""
        inside = self.pyramid().model
        return next(f"{name}." for name, module in self.named_modules() if module is inside)

    def group_matcher(self, coarse: bool = False) -> Mapping[str, Any]:
        """timm's patterns of the backbone's layers, below the prefix that they have here."""
        model: Any = self.pyramid().model
        prefix = self.backbone_prefix().replace(".", r"\.")

        def below(pattern: str) -> str:
            # All alternatives, as in timm's "^conv1|bn1", and not the first alone.
            return f"^{prefix}(?:{pattern.removeprefix('^').replace('|^', '|')})"

        def moved(value: Any) -> Any:
            if isinstance(value, str):
                return below(value)
            return [(below(entry[0]), *entry[1:]) for entry in value]

        return {key: moved(value) for key, value in model.group_matcher(coarse=coarse).items()}

    def no_weight_decay(self) -> set[str]:
        """The backbone's exemptions."""
        own: Any = getattr(self.pyramid().model, "no_weight_decay", set)
        return {self.backbone_prefix() + pattern for pattern in own()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's blocks in the backward pass."""
        model: Any = self.pyramid().model
        model.set_grad_checkpointing(enable)

    def reaching_all(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses, with gradients for every parameter where several processes train.

        What a batch has no use for, such as the noised objects of images without any, has no
        gradient, and DistributedDataParallel would wait for it forever. There it gets one of zeros;
        a process alone is left as it is.
        """
        if not (torch.is_grad_enabled() and _num_processes() > 1):
            return losses
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        if any(hasattr(parameter, "device_mesh") for parameter in trained):
            # Sharded weights (FSDP) need no gradient, and cannot be taken apart.
            return losses
        # The sum of no elements: zero whatever the weights are, with gradients of zeros.
        nothing = [parameter.flatten()[:0].sum() for parameter in trained]
        name, first = next(iter(losses.items()))
        return {**losses, name: first + sum(part.to(first) for part in nothing)}


def _num_processes() -> int:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()
