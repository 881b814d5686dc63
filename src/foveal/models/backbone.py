"""The skeleton of every backbone, stem → stages → norm → head, and timm's contract around it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from timm.layers import ClassifierHead
from timm.models import checkpoint_seq
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from foveal.errors import OptionError
from foveal.layers.image_input import check_image_size

Indices = int | list[int] | None


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """What every backbone can be told.

    Attributes:
        num_classes: outputs of the classifier; 0 for none.
        in_chans: channels of the image.
        global_pool: pooling before the classifier: "avg", "max", "avgmax", "catavgmax", "fast",
            or "" to keep the map.
        drop_rate: dropout before the classifier, in [0, 1).
        drop_path_rate: stochastic depth of the last block, in [0, 1); it rises linearly from 0.
        output_stride: pixels per cell of the last map, where the family can keep it finer than 32.
        stem_stride: pixels per cell of the first map: the published number, or half of it for
            images of 32 to 96 pixels, where every map has twice the side; None for the published.
            Only tables with a value per displacement or pair of cells change their shape.
    """

    num_classes: int = 1000
    in_chans: int = 3
    global_pool: str = "avg"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    output_stride: int = 32
    stem_stride: int | None = None

    def drop_path_rates(self, depths: Sequence[int]) -> list[list[float]]:
        """The stochastic depth of every block, stage by stage."""
        total = sum(depths)
        rates = iter(self.drop_path_rate * i / max(total - 1, 1) for i in range(total))
        return [[next(rates) for _ in range(depth)] for depth in depths]

    def first_stride(self, published: int = 4) -> int:
        """Pixels per cell of the first map, as published or as asked for."""
        allowed = (published, max(published // 2, 1))
        if self.stem_stride not in (None, *allowed):
            raise OptionError(
                f"stem_stride is {allowed[0]}, as published, or {allowed[1]}, "
                f"got {self.stem_stride}."
            )
        return self.stem_stride or published

    def strides(self, num_stages: int, patch_size: int = 4) -> tuple[list[int], list[int]]:
        """Pixels per cell and dilation of each stage; dilation takes over at `output_stride`."""
        if self.output_stride not in (8, 16, 32):
            raise OptionError(f"output_stride is 8, 16 or 32, got {self.output_stride}.")
        first = self.first_stride(patch_size)
        natural = [first * 2**stage for stage in range(num_stages)]
        kept = [min(stride, self.output_stride) for stride in natural]
        return kept, [full // stride for full, stride in zip(natural, kept, strict=True)]

    def refuse_output_stride(self, family: str) -> None:
        """For families whose mixers have no dilated form."""
        if self.output_stride != 32:
            raise OptionError(
                f"{family} has no dilated form: output_stride is 32, got {self.output_stride}; "
                "FocalNet and EfficientMod offer 8 and 16."
            )


class Stage(nn.Module):
    """`norm(blocks(downsample(x)))`: every map of one resolution."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        downsample: nn.Module | None = None,
        norm: nn.Module | None = None,
    ):
        super().__init__()
        self.downsample = downsample or nn.Identity()
        self.blocks = nn.Sequential(*blocks)
        self.norm = norm or nn.Identity()
        self.grad_checkpointing = False

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        x = self.downsample(x)
        x = checkpoint_seq(self.blocks, x) if self.grad_checkpointing else self.blocks(x)
        return self.norm(x)


class Backbone(nn.Module):
    """Stem, stages, norm and head, with everything timm expects of a backbone.

    Args:
        config: what the network is; kept as `model.config`.
        stem: image to first map. Its first convolution is `stem.proj`.
        stages: one a resolution.
        channels: of each stage's map.
        reductions: pixels per cell of each stage's map.
        norm: of the last map, before pooling.
        isotropic: one stage only, whose features are the maps after each block, as in a ViT.
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        stem: nn.Module,
        stages: Sequence[Stage],
        channels: Sequence[int],
        reductions: Sequence[int],
        norm: nn.Module,
        isotropic: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        self.config = config
        self.num_classes = config.num_classes
        self.in_chans = config.in_chans
        self.isotropic = isotropic
        self.num_features = channels[-1]
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.norm = norm
        self.head = ClassifierHead(
            self.num_features,
            config.num_classes,
            pool_type=config.global_pool,
            drop_rate=config.drop_rate,
            device=device,
            dtype=dtype,
        )
        self.head_hidden_size = self.head.num_features
        if isotropic:
            taps = [
                (channels[0], reductions[0], f"stages.0.blocks.{i}")
                for i in range(len(stages[0].blocks))
            ]
        else:
            pairs = enumerate(zip(channels, reductions, strict=True))
            taps = [(c, r, f"stages.{i}") for i, (c, r) in pairs]
        self.feature_info = [{"num_chs": c, "reduction": r, "module": m} for c, r, m in taps]
        for module in self.modules():
            self.init_weights_of(module)

    @property
    def coarsest_cell(self) -> int:
        """Pixels per cell and axis of the coarsest map that depends on the image's size."""
        return max(entry["reduction"] for entry in self.feature_info)

    def init_weights_of(self, module: nn.Module) -> None:
        """Initialise one module's own parameters; a family says here what differs from PyTorch."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def init_non_persistent_buffers(self) -> None:
        """Nothing to rebuild: tables without parameters are computed when they are needed."""

    def forward_features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Images to the normed last map."""
        return self.norm(self.stages(self.stem(x)))

    def forward_head(self, x: Float[Tensor, "b d h2 w2"], pre_logits: bool = False) -> Tensor:
        """The last map to logits, or to the pooled vector with `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Tensor:
        """Images (B, in_chans, H, W), H and W from 32 up, to logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def _stages(self) -> list[Stage]:
        return [stage for stage in self.stages if isinstance(stage, Stage)]

    def _units(self) -> nn.Sequential:
        """The modules whose outputs are the features, in order."""
        return self._stages()[0].blocks if self.isotropic else self.stages

    def forward_intermediates(
        self,
        x: Float[Tensor, "b c h w"],
        indices: Indices = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """`(last normed map, chosen maps)`, or the chosen maps alone.

        Args:
            x: images.
            indices: which maps: the last n if an int, all if None.
            norm: put the last map through the final norm, as the head sees it.
            stop_early: run no further than the last chosen map.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return the list alone.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise OptionError(f"output_fmt is 'NCHW' or 'NHWC', got {output_fmt!r}.")
        units = self._units()
        take, deepest = feature_take_indices(len(units), indices)
        x = self.stem(x)
        maps: list[Tensor] = []
        checkpointed = self.isotropic and self._stages()[0].grad_checkpointing
        last = False
        for index, unit in enumerate(units[: deepest + 1] if stop_early else units):
            x = checkpoint_seq([unit], x) if checkpointed else unit(x)
            last = index == len(units) - 1
            if index in take:
                tapped = self.norm(x) if norm and last else x
                maps.append(tapped if output_fmt == "NCHW" else tapped.permute(0, 2, 3, 1))
        if intermediates_only:
            return maps
        return (self.norm(x) if last else x), maps

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what the chosen maps do not need; returns their indices as numbers from 0."""
        units = self._units()
        take, deepest = feature_take_indices(len(units), indices)
        shortened = deepest < len(units) - 1
        if self.isotropic:
            self._stages()[0].blocks = units[: deepest + 1]
        else:
            self.stages = units[: deepest + 1]
        if prune_norm or shortened:
            self.norm = nn.Identity()
        if shortened:
            self.num_features = int(self.feature_info[deepest]["num_chs"])
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """The linear layer that gives the logits."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier of `num_classes` outputs; 0 for the pooled vector, with "" the map."""
        like = next(self.parameters())
        self.num_classes = num_classes
        self.head.reset(
            num_classes,
            pool_type=global_pool,
            in_features=self.num_features,
            device=like.device,
            dtype=like.dtype,
        )
        self.head_hidden_size = self.head.num_features

    def set_input_size(self, img_size: int | tuple[int, int] | None = None) -> None:
        """Nothing to change, as every size is taken as it comes; checks that this one would be."""
        if img_size is not None:
            check_image_size((img_size, img_size) if isinstance(img_size, int) else img_size)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        for stage in self._stages():
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Patterns of the parameters that weight decay should leave alone (beside biases)."""
        return set()

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Layers in order, for layer-wise learning-rate decay: whole stages if `coarse`."""
        fine = [
            (r"^stages\.(\d+)\.downsample", (0,)),
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.norm", (99998,)),
        ]
        stages = [(r"^stages\.(\d+)", None)]
        blocks = [*(stages if coarse else fine), (r"^norm", (99999,))]
        return {"stem": r"^stem", "blocks": blocks}
