"""Detectors that find objects by queries: Deformable DETR, RT-DETRv2 and D-FINE.

The heads are transformers' (Zhu et al. 2021, Lv et al. 2024, Peng et al. 2024), drawn as their
papers draw them where transformers draws otherwise. They stand for the DINO detector of the
FocalNet and TransNeXt papers, which they share their parts with.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.ops import box_convert

from foveal.errors import OptionError
from foveal.models.pyramid import Pyramid
from foveal.tasks.detection.contract import Detector, Found, Image, Target
from foveal.tasks.transformers_network import (
    MaskedMaps,
    build_network,
    check_scales,
    check_width,
    full_precision,
    keep_coarsest,
    next_multiple,
    pad_to,
    transformers,
)

# Below it a backbone's last map would vanish.
SMALLEST_SIDE = 32

# The papers' chance that a fresh network sees an object.
PRIOR = 0.01


class DetrDetector(Detector):
    """A network of transformers that has a pyramid for its backbone.

    Images of one size go through the network together when objects are sought, so that what is
    found in an image does not hang on its company; while training they are padded to one size.

    Args:
        network: transformers' detector, with `maps` in its place.
        maps: the pyramid.
        num_classes: kinds of objects.
        processor: transformers' image processor, for its `post_process_object_detection`.
        strides: pixels per cell of each map that the head looks at.
        multiple: sides of the padded images are multiples of it.

    Attributes:
        network: what transformers' users know, with `loss`, `logits` and `pred_boxes` as outputs.
    """

    def __init__(
        self,
        network: Any,
        maps: MaskedMaps,
        num_classes: int,
        processor: Any,
        *,
        strides: Sequence[int],
        multiple: int = 1,
    ):
        super().__init__(num_classes)
        self.network = network
        self.processor = processor
        self.strides = list(strides)
        self.multiple = multiple
        network.model.backbone = maps

    def losses(self, images: Sequence[Image], targets: Sequence[Target]) -> dict[str, Tensor]:
        """transformers' own parts, weighted; `_0`, `_aux_0` … stand for the inner layers' and
        `_dn_0` … for those of the noised boxes."""
        pixels, mask = self.batch(images)
        labels = [
            self._labels(target, self._frame(image, pixels))
            for image, target in zip(images, targets, strict=True)
        ]
        with full_precision(self.network.model.backbone, pixels):
            outputs = self.network(pixels, pixel_mask=mask, labels=labels)
            return self._parts(outputs, labels)

    def find(self, images: Sequence[Image]) -> list[Found]:
        """As many objects as there are queries, the surest first."""
        found: list[Any] = [None] * len(images)
        for members in _by_size(images):
            alike = [images[index] for index in members]
            pixels, mask = self.batch(alike)
            with full_precision(self.network.model.backbone, pixels):
                outputs = self.network(pixels, pixel_mask=mask)
            frames = [self._frame(image, pixels) for image in alike]
            for index, objects in zip(members, self._objects(outputs, frames), strict=True):
                found[index] = objects
        return found

    def batch(
        self, images: Sequence[Image]
    ) -> tuple[Float[Tensor, "b c h2 w2"], Int[Tensor, "b h2 w2"]]:
        """The images padded to one size, and 1 where they are."""
        height = max(SMALLEST_SIDE, *(image.shape[-2] for image in images))
        width = max(SMALLEST_SIDE, *(image.shape[-1] for image in images))
        size = [next_multiple(side, self.multiple) for side in (height, width)]
        # Small images have fewer cells than the head picks its queries from.
        while sum(-(-size[0] // s) * -(-size[1] // s) for s in self.strides) < self._num_queries():
            size = [side + max(SMALLEST_SIDE, self.multiple) for side in size]
        whole = (size[0], size[1])
        pixels = torch.stack([pad_to(image, whole) for image in images])
        ones = [image.new_ones(1, *image.shape[-2:], dtype=torch.long) for image in images]
        return pixels, torch.cat([pad_to(one, whole) for one in ones])

    def _num_queries(self) -> int:
        return self.network.config.num_queries

    def _frame(self, image: Image, pixels: Tensor) -> tuple[int, int]:
        """Height and width that the network's boxes are shares of: without masks, the whole."""
        return pixels.shape[-2], pixels.shape[-1]

    def _labels(self, target: Target, frame: tuple[int, int]) -> dict[str, Tensor]:
        """Boxes as transformers wants them, centre and size in shares of the frame."""
        boxes = target["boxes"].as_subclass(Tensor).float()
        kinds = target["labels"]
        if "crowd" in target:
            boxes, kinds = boxes[~target["crowd"]], kinds[~target["crowd"]]
        whole = boxes.new_tensor([frame[1], frame[0], frame[1], frame[0]])
        return {
            "boxes": box_convert(boxes.reshape(-1, 4), "xyxy", "cxcywh") / whole,
            "class_labels": kinds.long(),
        }

    def _parts(self, outputs: Any, labels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The weighted parts of the loss."""
        return dict(outputs.loss_dict)

    def _objects(self, outputs: Any, frames: list[tuple[int, int]]) -> list[Found]:
        return self.processor.post_process_object_detection(outputs, 0.0, frames)


class DeformableDetr(DetrDetector):
    """The same with masks of the padding, and a loss of the proposals that transformers lacks."""

    def _frame(self, image: Image, pixels: Tensor) -> tuple[int, int]:
        return image.shape[-2], image.shape[-1]

    def _parts(self, outputs: Any, labels: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        proposed = {
            "logits": outputs.enc_outputs_class,
            "pred_boxes": outputs.enc_outputs_coord_logits.sigmoid(),
        }
        # The first stage tells objects from ground, whatever their kind.
        objects = [{**one, "class_labels": torch.zeros_like(one["class_labels"])} for one in labels]
        first = self._criterion()(proposed, objects)
        parts = outputs.loss_dict | {f"{name}_enc": value for name, value in first.items()}
        weights = {name: self._weight(name) for name in parts}
        return {name: parts[name] * weight for name, weight in weights.items() if weight}

    def _weight(self, name: str) -> float:
        """transformers' weight of a part; 0 of the counts that are no losses."""
        config = self.network.config
        weights = {
            "loss_ce": 1.0,
            "loss_bbox": float(config.bbox_loss_coefficient),
            "loss_giou": float(config.giou_loss_coefficient),
        }
        return next((w for part, w in weights.items() if name.startswith(part)), 0.0)

    def _criterion(self) -> nn.Module:
        """transformers' loss of one layer."""
        from transformers.loss import loss_deformable_detr as library

        config = self.network.config
        matcher = library.DeformableDetrHungarianMatcher(
            config.class_cost, config.bbox_cost, config.giou_cost
        )
        return library.DeformableDetrImageLoss(
            matcher, self.num_classes, config.focal_alpha, ["labels", "boxes"]
        )

    def _objects(self, outputs: Any, frames: list[tuple[int, int]]) -> list[Found]:
        queries = self._num_queries()
        return self.processor.post_process_object_detection(outputs, 0.0, frames, top_k=queries)


def deformable_detr(
    pyramid: Pyramid,
    num_classes: int,
    *,
    num_queries: int = 300,
    encoder_layers: int = 6,
    decoder_layers: int = 6,
    d_model: int = 256,
    num_feature_levels: int = 4,
    dropout: float = 0.1,
) -> Detector:
    """Deformable DETR (Zhu et al. 2021), two-stage, its boxes refined layer by layer.

    Args:
        pyramid: the backbone; becomes part of the detector.
        num_classes: kinds of objects.
        num_queries: how many objects an image has at most.
        encoder_layers: over all scales.
        decoder_layers: over the queries.
        d_model: channels of both; a multiple of 32.
        num_feature_levels: 4 or 5 scales, the coarsest made of the backbone's last map.
        dropout: share of the head's channels left out while training.
    """
    coarsest = _levels(num_feature_levels, (4, 5))
    check_width(d_model)
    keep_coarsest(pyramid, coarsest)
    network = build_network(
        "DeformableDetrForObjectDetection",
        "DeformableDetrConfig",
        pyramid.channels,
        num_labels=num_classes,
        num_queries=num_queries,
        two_stage_num_proposals=num_queries,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        d_model=d_model,
        dropout=dropout,
        num_feature_levels=num_feature_levels,
        two_stage=True,
        with_box_refine=True,
        auxiliary_loss=True,
        disable_custom_kernels=True,
    )
    _draw_deformable(network)
    processor = transformers().DeformableDetrImageProcessor()
    strides = [*pyramid.reductions, 2 * pyramid.reductions[-1]]
    return DeformableDetr(network, MaskedMaps(pyramid), num_classes, processor, strides=strides)


def rtdetr_v2(
    pyramid: Pyramid,
    num_classes: int,
    *,
    num_queries: int = 300,
    encoder_layers: int = 1,
    decoder_layers: int = 6,
    d_model: int = 256,
    num_feature_levels: int = 3,
    num_denoising: int = 100,
) -> Detector:
    """RT-DETRv2 (Lv et al. 2024), denoising while it trains.

    Args:
        pyramid: the backbone; becomes part of the detector.
        num_classes: kinds of objects.
        num_queries: how many objects an image has at most.
        encoder_layers: of attention over the coarsest map.
        decoder_layers: over the queries.
        d_model: channels of both; a multiple of 32.
        num_feature_levels: 3, 4 or 5 scales; from 4 up the coarsest is made of the backbone's last.
        num_denoising: noised boxes to learn from, 0 for none.
    """
    return _hybrid(
        "RTDetrV2",
        pyramid,
        num_classes,
        num_feature_levels,
        num_queries=num_queries,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        d_model=d_model,
        num_denoising=num_denoising,
        decoder_n_levels=num_feature_levels,
    )


def d_fine(
    pyramid: Pyramid,
    num_classes: int,
    *,
    num_queries: int = 300,
    encoder_layers: int = 1,
    decoder_layers: int = 6,
    d_model: int = 256,
    num_feature_levels: int = 3,
    num_denoising: int = 100,
) -> Detector:
    """D-FINE (Peng et al. 2024): edges of boxes as distributions, denoising while it trains.

    Arguments: those of `rtdetr_v2`.
    """
    return _hybrid(
        "DFine",
        pyramid,
        num_classes,
        num_feature_levels,
        num_queries=num_queries,
        encoder_layers=encoder_layers,
        decoder_layers=decoder_layers,
        d_model=d_model,
        num_denoising=num_denoising,
    )


def _hybrid(
    name: str,
    pyramid: Pyramid,
    num_classes: int,
    num_feature_levels: int,
    *,
    d_model: int,
    **options: Any,
) -> Detector:
    """The two heads that have RT-DETR's encoder of attention and convolutions."""
    coarsest = _levels(num_feature_levels, (3, 4, 5))
    check_width(d_model)
    keep_coarsest(pyramid, coarsest)
    check_scales(name, pyramid)
    maps = MaskedMaps(pyramid, num_feature_levels - coarsest, d_model)
    strides = [pyramid.reductions[0] * 2**level for level in range(num_feature_levels)]
    network = build_network(
        f"{name}ForObjectDetection",
        f"{name}Config",
        maps.channels,
        num_labels=num_classes,
        d_model=d_model,
        encoder_hidden_dim=d_model,
        encoder_in_channels=maps.channels,
        decoder_in_channels=[d_model] * num_feature_levels,
        encode_proj_layers=[num_feature_levels - 1],
        num_feature_levels=num_feature_levels,
        feat_strides=strides,
        # A fixed size would cast the anchors in stone.
        anchor_image_size=None,
        # What PyTorch draws linear layers of this width with.
        initializer_range=(3 * d_model) ** -0.5,
        **options,
    )
    _draw_hybrid(network)
    processor = transformers().RTDetrImageProcessor()
    return DetrDetector(
        network, maps, num_classes, processor, strides=strides, multiple=strides[-1]
    )


DETR_HEADS: dict[str, Callable[..., Detector]] = {
    "deformable_detr": deformable_detr,
    "rtdetr_v2": rtdetr_v2,
    "d_fine": d_fine,
}


def _levels(asked: int, allowed: tuple[int, ...]) -> int:
    """How many of the backbone's maps the scales need; from 4 up the coarsest is made of the last.

    Raises:
        OptionError: another number of scales.
    """
    if asked not in allowed:
        known = ", ".join(map(str, allowed))
        raise OptionError(f"num_feature_levels is one of {known}, got {asked}.")
    return max(3, asked - 1)


def _by_size(images: Sequence[Image]) -> list[list[int]]:
    """Indices of the images, those of one size together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(index)
    return list(groups.values())


def _draw_deformable(network: Any) -> None:
    """The authors' start: even matrices, few objects, and boxes that are their proposals."""
    for name, parameter in network.named_parameters():
        drawn = "sampling_offsets" in name or "attention_weights" in name
        if parameter.dim() > 1 and not drawn and "level_embed" not in name:
            nn.init.xavier_uniform_(parameter)
    for layer in network.class_embed:
        nn.init.constant_(layer.bias, -torch.tensor((1 - PRIOR) / PRIOR).log().item())
    for head in network.bbox_embed:
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)


def _draw_hybrid(network: Any) -> None:
    """The authors' start: norms that change nothing, and proposals that are the anchors."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    nn.init.zeros_(network.model.enc_bbox_head.layers[-1].weight)
    nn.init.zeros_(network.model.enc_bbox_head.layers[-1].bias)
