"""Segmenters that find a mask for every class in the image: Mask2Former and MaskFormer.

The heads are transformers' (Cheng et al. 2021, 2022), here for semantic segmentation: a class is
one mask, and a pixel's class the one whose masks are likeliest there.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.models.pyramid import Pyramid
from foveal.tasks.segmentation.contract import Segmenter
from foveal.tasks.transformers_network import (
    NamedMaps,
    build_network,
    check_scales,
    check_width,
    full_precision,
    next_multiple,
    pad_to,
    transformers,
)

# Sides of what the network sees, so that every map's cells cover the image evenly.
MULTIPLE = 32

# In the masks that the criterion gets: a pixel that belongs to no mask and does not count.
NOT_LABELLED = -1.0

# Logit that neither costs nor teaches anything where no mask is wanted.
SURELY_NOT = -1e4

# Queries whose masks are enlarged at a time, for memory's sake.
QUERIES_AT_ONCE = 25


class MaskTransformer(Segmenter):
    """A network of transformers that has a pyramid for its backbone.

    Args:
        network: transformers' segmenter, with `maps` in its place.
        maps: the pyramid.
        num_classes: kinds of things.
        ignore_index: label of pixels that do not count.

    Attributes:
        network: what transformers' users know, with `loss`, `class_queries_logits` and
            `masks_queries_logits` as outputs.
    """

    def __init__(self, network: Any, maps: NamedMaps, num_classes: int, ignore_index: int = 255):
        super().__init__(num_classes, ignore_index)
        self.network = network
        network.model.pixel_level_module.encoder = maps
        network.criterion.matcher.register_forward_pre_hook(_background_elsewhere)

    def losses(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b h w"]
    ) -> dict[str, Tensor]:
        """transformers' own parts, weighted; `_0` … stand for the inner layers'."""
        pixels = self._padded(images)
        size = (pixels.shape[-2], pixels.shape[-1])
        beyond = size[0] - labels.shape[-2], size[1] - labels.shape[-1]
        labels = F.pad(labels, (0, beyond[1], 0, beyond[0]), value=self.ignore_index)
        masks, classes = zip(*map(self._masks, labels), strict=True)
        with full_precision(self._maps(), pixels):
            outputs = self.network(pixels, output_auxiliary_logits=True)
            return self.network.get_loss_dict(
                outputs.masks_queries_logits,
                outputs.class_queries_logits,
                list(masks),
                list(classes),
                outputs.auxiliary_logits,
            )

    def scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h w"]:
        """Logarithms of the queries' class probabilities times their masks, summed."""
        pixels = self._padded(images)
        with full_precision(self._maps(), pixels):
            outputs = self.network(pixels)
            shares = self._semantic(outputs, (pixels.shape[-2], pixels.shape[-1]))
        shares = shares[..., : images.shape[-2], : images.shape[-1]]
        return shares.clamp(min=torch.finfo(shares.dtype).tiny).log()

    def _maps(self) -> NamedMaps:
        return self.network.model.pixel_level_module.encoder

    def _padded(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        height, width = (next_multiple(side, MULTIPLE) for side in images.shape[-2:])
        return pad_to(images, (height, width))

    def _masks(
        self, labels: Int[Tensor, "h w"]
    ) -> tuple[Float[Tensor, "n h w"], Int[Tensor, " n"]]:
        """Each class in the image with its mask: 1 inside, 0 outside, `NOT_LABELLED` elsewhere."""
        labelled = labels != self.ignore_index
        classes = labels[labelled].unique()
        masks = (labels == classes[:, None, None]).float()
        return masks.masked_fill(~labelled, NOT_LABELLED), classes.long()

    @abstractmethod
    def _semantic(self, outputs: Any, size: tuple[int, int]) -> Float[Tensor, "b classes h w"]:
        """Sum over queries of class probability times mask, at the size of the padded images."""


class Mask2Former(MaskTransformer):
    """Mask2Former: masks are enlarged before they are put together, as its authors do."""

    def _semantic(self, outputs: Any, size: tuple[int, int]) -> Float[Tensor, "b classes h w"]:
        shares = outputs.class_queries_logits.softmax(-1)[..., :-1].split(QUERIES_AT_ONCE, 1)
        masks = outputs.masks_queries_logits.split(QUERIES_AT_ONCE, 1)
        parts = (
            torch.einsum("bqc,bqhw->bchw", share, _enlarged(mask, size).sigmoid())
            for share, mask in zip(shares, masks, strict=True)
        )
        return torch.stack([*parts]).sum(0)


class MaskFormer(MaskTransformer):
    """MaskFormer: masks are put together before they are enlarged, as transformers does."""

    def _semantic(self, outputs: Any, size: tuple[int, int]) -> Float[Tensor, "b classes h w"]:
        shares = outputs.class_queries_logits.softmax(-1)[..., :-1]
        masks = outputs.masks_queries_logits.sigmoid()
        return _enlarged(torch.einsum("bqc,bqhw->bchw", shares, masks), size)


def mask2former(
    pyramid: Pyramid,
    num_classes: int,
    *,
    num_queries: int = 100,
    encoder_layers: int = 6,
    decoder_layers: int = 9,
    d_model: int = 256,
    num_points: int = 12544,
    ignore_index: int = 255,
) -> Segmenter:
    """Mask2Former (Cheng et al. 2022).

    Args:
        pyramid: the backbone, of four maps; becomes part of the segmenter.
        num_classes: kinds of things.
        num_queries: masks that an image can have.
        encoder_layers: of deformable attention over the three coarser maps.
        decoder_layers: of attention inside the queries' masks.
        d_model: channels of both; a multiple of 32.
        num_points: where the loss looks at each mask.
        ignore_index: label of pixels that do not count.
    """
    check_width(d_model)
    check_scales("mask2former", pyramid)
    network = build_network(
        "Mask2FormerForUniversalSegmentation",
        "Mask2FormerConfig",
        pyramid.channels,
        num_labels=num_classes,
        num_queries=num_queries,
        encoder_layers=encoder_layers,
        # transformers counts the look at the queries before the first layer.
        decoder_layers=decoder_layers + 1,
        feature_size=d_model,
        mask_feature_size=d_model,
        hidden_dim=d_model,
        feature_strides=pyramid.reductions,
        common_stride=pyramid.reductions[0],
        train_num_points=num_points,
        use_auxiliary_loss=True,
    )
    network.criterion = _mask2former_criterion()(network.config, network.weight_dict)
    return Mask2Former(network, NamedMaps(pyramid), num_classes, ignore_index)


def maskformer(
    pyramid: Pyramid,
    num_classes: int,
    *,
    num_queries: int = 100,
    decoder_layers: int = 6,
    d_model: int = 256,
    dropout: float = 0.1,
    ignore_index: int = 255,
) -> Segmenter:
    """MaskFormer (Cheng et al. 2021).

    Args:
        pyramid: the backbone; becomes part of the segmenter.
        num_classes: kinds of things.
        num_queries: masks that an image can have.
        decoder_layers: over the queries.
        d_model: channels of the pyramid of masks and of the queries; a multiple of 32.
        dropout: share of the decoder's channels left out while training.
        ignore_index: label of pixels that do not count.
    """
    check_width(d_model)
    decoder = transformers().DetrConfig(
        num_queries=num_queries, decoder_layers=decoder_layers, d_model=d_model, dropout=dropout
    )
    network = build_network(
        "MaskFormerForInstanceSegmentation",
        "MaskFormerConfig",
        pyramid.channels,
        num_labels=num_classes,
        decoder_config=decoder,
        fpn_feature_size=d_model,
        mask_feature_size=d_model,
        use_auxiliary_loss=True,
        # Where transformers looks for the inner layers' queries.
        output_hidden_states=True,
    )
    _draw_maskformer(network)
    network.criterion = _maskformer_criterion()(
        num_classes, network.matcher, network.weight_dict, network.config.no_object_weight
    )
    return MaskFormer(network, NamedMaps(pyramid), num_classes, ignore_index)


MASK_TRANSFORMER_HEADS: dict[str, Callable[..., Segmenter]] = {
    "mask2former": mask2former,
    "maskformer": maskformer,
}


def _draw_maskformer(network: Any) -> None:
    """The authors' start, queries that differ and even matrices, but for one bias.

    The queries' contents are zeros before the first layer, and a norm of zeros multiplies
    gradients by 300: with biases of zero too, as the authors have it, two of them had 38 and 220
    times the gradient of any other weight.
    """
    module = network.model.transformer_module
    nn.init.normal_(module.queries_embedder.weight)
    for parameter in module.decoder.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    nn.init.normal_(module.decoder.layers[0].self_attn.o_proj.bias)


def _enlarged(maps: Float[Tensor, "b n h w"], size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def _background_elsewhere(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """For the assignment of queries to masks, pixels without a label are outside all masks."""
    logits, classes, masks, labels = arguments
    return logits, classes, [mask.clamp(min=0) for mask in masks], labels


def _matched(
    logits: Float[Tensor, "b q h w"], masks: list[Tensor], indices: Any
) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n 1 h2 w2"]]:
    """Logits of the queries that were given a mask, and these masks."""
    chosen = [one[queries] for one, (queries, _) in zip(logits, indices, strict=True)]
    wanted = [one[order] for one, (_, order) in zip(masks, indices, strict=True)]
    return torch.cat(chosen)[:, None], torch.cat(wanted)[:, None]


def _counted(
    logits: Float[Tensor, "n p"], wanted: Float[Tensor, "n p"], counts: Tensor
) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n p"]]:
    """Logits and masks that cost nothing where a pixel does not count."""
    return logits.masked_fill(~counts, SURELY_NOT), wanted.masked_fill(~counts, 0.0)


@cache
def _maskformer_criterion() -> Any:
    """transformers' loss, blind to pixels without a label."""
    from transformers.models.maskformer import modeling_maskformer as library

    class Criterion(library.MaskFormerLoss):
        """Compares whole masks."""

        def forward(
            self,
            masks_queries_logits: Any,
            class_queries_logits: Any,
            mask_labels: Any,
            class_labels: Any,
            auxiliary_predictions: Any = None,
        ) -> dict[str, Tensor]:
            # Before the first layer all queries are zeros and have the same mask.
            return super().forward(
                masks_queries_logits,
                class_queries_logits,
                mask_labels,
                class_labels,
                auxiliary_predictions[1:] if auxiliary_predictions else None,
            )

        def loss_masks(
            self, masks_queries_logits: Any, mask_labels: Any, indices: Any, num_masks: Any
        ) -> dict[str, Tensor]:
            logits, wanted = _matched(masks_queries_logits, mask_labels, indices)
            logits = _enlarged(logits, (wanted.shape[-2], wanted.shape[-1])).flatten(1)
            wanted = wanted.flatten(1)
            logits, wanted = _counted(logits, wanted, wanted >= 0)
            return {
                "loss_mask": library.sigmoid_focal_loss(logits, wanted, num_masks),
                "loss_dice": library.dice_loss(logits, wanted, num_masks),
            }

    return Criterion


@cache
def _mask2former_criterion() -> Any:
    """transformers' loss, blind to points without a label."""
    from transformers.models.mask2former import modeling_mask2former as library

    class Criterion(library.Mask2FormerLoss):
        """Compares masks at points, most of them where the network is unsure."""

        def loss_masks(
            self, masks_queries_logits: Any, mask_labels: Any, indices: Any, num_masks: Any
        ) -> dict[str, Tensor]:
            logits, wanted = _matched(masks_queries_logits, mask_labels, indices)
            with torch.no_grad():
                ratios: Any = (self.oversample_ratio, self.importance_sample_ratio)
                points = self.sample_points_using_uncertainty(
                    logits, self.calculate_uncertainty, self.num_points, *ratios
                )
                labelled = (wanted >= 0).float()
                # A point near a pixel that does not count would be half of it.
                counts = _at(labelled, points, padding_mode="border") > 0.999
                wanted = _at(wanted.clamp(min=0), points)
            logits, wanted = _counted(_at(logits, points), wanted, counts)
            return {
                "loss_mask": library.sigmoid_cross_entropy_loss(logits, wanted, num_masks),
                "loss_dice": library.dice_loss(logits, wanted, num_masks),
            }

    return Criterion


def _at(
    maps: Float[Tensor, "n 1 h w"], points: Float[Tensor, "n p 2"], padding_mode: str = "zeros"
) -> Float[Tensor, "n p"]:
    """Values between the cells, at points in [0, 1]²."""
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(maps, grid, padding_mode=padding_mode, align_corners=False)[:, 0, :, 0]
