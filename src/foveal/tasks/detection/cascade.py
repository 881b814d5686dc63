"""Cascade R-CNN: boxes refined by one detector after the other, each stricter than the last.

Paper: Cai & Vasconcelos, "Cascade R-CNN: High Quality Object Detection and Instance
Segmentation", TPAMI 2019 (arXiv 1906.09756); the boxes alone are of CVPR 2018 (arXiv 1712.00726).

A detector trained at an overlap u is best on boxes that overlap their objects by about u. Proposals
overlap by 0.5 or so, hence training at 0.7 straight away would leave too few of them. But what
comes out of a regressor overlaps more than what went in: so stage t is trained on the boxes of
stage t − 1, at a higher u, and finds as many examples as the first did.

With x the image, b⁰ its proposals, h a classifier and f a regressor,

    bᵗ = fₜ(x, bᵗ⁻¹)                                      refinement, in training and at test
    yᵗ = class of the object g that bᵗ⁻¹ overlaps by uₜ or more, else background
    L = Σₜ λₜ (L_cls(hₜ(x, bᵗ⁻¹), yᵗ) + [yᵗ ≥ 1] L_loc(fₜ(x, bᵗ⁻¹), g))
    p = ⅓ Σₜ softmax hₜ(x, b²)                            at test: all see the last boxes

Masks are learnt on the positive boxes of every stage, by a head each, and averaged on the final
boxes: the best of the paper's three arrangements.

Where the papers leave it open: boxes are sampled once, before the first stage, and matched anew
before each; a refined box that the image's edge leaves nothing of stays what it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import (
    RoIHeads,
    fastrcnn_loss,
    maskrcnn_inference,
    maskrcnn_loss,
)
from torchvision.ops import clip_boxes_to_image

from foveal.errors import OptionError
from foveal.models.pyramid import Pyramid
from foveal.tasks.detection.fpn import FeaturePyramid
from foveal.tasks.detection.torchvision_heads import (
    RCNNOptions,
    TorchvisionDetector,
    box_head,
    mask_head,
    mask_predictor,
    rcnn_anchors,
    roi_pool,
    split_options,
)

Boxes = list[Tensor]
Sizes = list[tuple[int, int]]
Features = dict[str, Tensor]
Objects = list[dict[str, Tensor]]

# Pixels below which a box has no inside.
SMALLEST_SIDE = 1e-2


@dataclass(frozen=True, kw_only=True)
class CascadeOptions(RCNNOptions):
    """Of the cascade, a value a stage.

    Attributes:
        iou_thresholds: overlap from which a box counts as its object, u.
        box_weights: by which a refinement's Δx, Δy, Δw, Δh are multiplied to learn them: the finer
            the refinements, the larger.
        loss_weights: λ.
    """

    iou_thresholds: tuple[float, ...] = (0.5, 0.6, 0.7)
    box_weights: tuple[tuple[float, float, float, float], ...] = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    loss_weights: tuple[float, ...] = (1.0, 0.5, 0.25)

    def __post_init__(self):
        lengths = {len(self.iou_thresholds), len(self.box_weights), len(self.loss_weights)}
        if len(lengths) > 1 or 0 in lengths:
            raise OptionError(
                f"iou_thresholds, box_weights and loss_weights have a value a stage, got "
                f"{len(self.iou_thresholds)}, {len(self.box_weights)} and "
                f"{len(self.loss_weights)}."
            )


class AgnosticPredictor(FastRCNNPredictor):
    """Class logits (n, num_classes) and one refinement (n, 4) for a box, whatever its class."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__(in_channels, num_classes)
        self.bbox_pred = nn.Linear(in_channels, 4)


class CascadeRoIHeads(nn.Module):
    """What follows the proposals: it takes the place of `roi_heads` in torchvision's detectors.

    Args:
        stages: one of torchvision's heads each, with an `AgnosticPredictor`; its own thresholds
            and box weights count.
        loss_weights: of each stage, λ.
    """

    def __init__(self, stages: Sequence[RoIHeads], loss_weights: Sequence[float]):
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.loss_weights = tuple(loss_weights)

    def _stages(self) -> list[RoIHeads]:
        return [stage for stage in self.stages if isinstance(stage, RoIHeads)]

    def forward(
        self,
        features: Features,
        proposals: Boxes,
        image_shapes: Sizes,
        targets: Objects | None = None,
    ) -> tuple[Objects, dict[str, Tensor]]:
        """What is found and what is lost, of which torchvision takes one.

        Args:
            features: maps by name.
            proposals: boxes (n, 4) of each image.
            image_shapes: height and width of each image.
            targets: boxes, labels from 1 up, and masks of each image's objects.
        """
        if not self.training:
            return self._found(features, proposals, image_shapes), {}
        assert targets is not None
        return [], self._losses(features, proposals, image_shapes, targets)

    def _losses(
        self, features: Features, proposals: Boxes, image_shapes: Sizes, targets: Objects
    ) -> dict[str, Tensor]:
        first, *_ = stages = self._stages()
        boxes, objects, labels, _ = first.select_training_samples(proposals, targets)
        losses: dict[str, Tensor] = {}
        for index, (stage, weight) in enumerate(zip(stages, self.loss_weights, strict=True)):
            if index:
                objects, labels = stage.assign_targets_to_proposals(
                    boxes, [t["boxes"] for t in targets], [t["labels"] for t in targets]
                )
            logits, deltas = self.outputs(stage, features, boxes, image_shapes)
            parts = box_losses(stage, logits, deltas, boxes, objects, labels, targets)
            if stage.has_mask():
                parts["mask"] = self._mask_loss(
                    stage, features, image_shapes, boxes, objects, labels, targets
                )
            losses |= {f"loss_{name}_{index + 1}": weight * part for name, part in parts.items()}
            boxes = refine(stage, deltas, boxes, image_shapes)
        return losses

    def outputs(
        self, stage: RoIHeads, features: Features, boxes: Boxes, image_shapes: Sizes
    ) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n 4"]]:
        """Logits and refinements of all images' boxes, hₜ(x, b) and fₜ(x, b)."""
        pooled = stage.box_roi_pool(features, boxes, image_shapes)
        return stage.box_predictor(stage.box_head(pooled))

    def _mask_loss(
        self,
        stage: RoIHeads,
        features: Features,
        image_shapes: Sizes,
        boxes: Boxes,
        objects: list[Tensor],
        labels: list[Tensor],
        targets: Objects,
    ) -> Tensor:
        """On the stage's positive boxes."""
        positive = [label > 0 for label in labels]
        boxes = [b[chosen] for b, chosen in zip(boxes, positive, strict=True)]
        objects = [o[chosen] for o, chosen in zip(objects, positive, strict=True)]
        return maskrcnn_loss(
            mask_logits(stage, features, boxes, image_shapes),
            boxes,
            [target["masks"] for target in targets],
            [target["labels"] for target in targets],
            objects,
        )

    def _found(self, features: Features, proposals: Boxes, image_shapes: Sizes) -> Objects:
        *earlier, last = stages = self._stages()
        boxes = proposals
        for stage in earlier:
            _, deltas = self.outputs(stage, features, boxes, image_shapes)
            boxes = refine(stage, deltas, boxes, image_shapes)
        outputs = [self.outputs(stage, features, boxes, image_shapes) for stage in stages]
        shares = torch.stack([logits.softmax(-1) for logits, _ in outputs]).mean(0)
        deltas = outputs[-1][1].repeat(1, shares.shape[1])
        # The softmax of logarithms of shares is the shares.
        found = last.postprocess_detections(shares.log(), deltas, boxes, image_shapes)
        results = [
            {"boxes": boxes, "scores": scores, "labels": labels}
            for boxes, scores, labels in zip(*found, strict=True)
        ]
        if last.has_mask():
            self._draw(features, image_shapes, results)
        return results

    def _draw(self, features: Features, image_shapes: Sizes, results: Objects) -> None:
        """Add the mean of all stages' masks, probabilities (n, 1, 28, 28) within the boxes."""
        boxes = [result["boxes"] for result in results]
        labels = [result["labels"] for result in results]
        drawn = [
            maskrcnn_inference(mask_logits(stage, features, boxes, image_shapes), labels)
            for stage in self._stages()
        ]
        for result, *masks in zip(results, *drawn, strict=True):
            result["masks"] = torch.stack(masks).mean(0)


def box_losses(
    stage: RoIHeads,
    logits: Float[Tensor, "n classes"],
    deltas: Float[Tensor, "n 4"],
    boxes: Boxes,
    objects: list[Int[Tensor, " _m"]],
    labels: list[Int[Tensor, " _m"]],
    targets: Objects,
) -> dict[str, Tensor]:
    """L_cls and L_loc of one stage, of boxes whose objects and labels are given by image."""
    nothing = boxes[0].new_zeros(1, 4)
    matched = [
        (target["boxes"] if len(target["boxes"]) else nothing).to(nothing)[indices]
        for target, indices in zip(targets, objects, strict=True)
    ]
    wanted = stage.box_coder.encode(matched, boxes)
    # torchvision picks the refinement of the true class: here all classes have the same.
    shared = deltas.repeat(1, logits.shape[1])
    classifier, box_reg = fastrcnn_loss(logits, shared, labels, list(wanted))
    return {"classifier": classifier, "box_reg": box_reg}


def refine(
    stage: RoIHeads, deltas: Float[Tensor, "n 4"], boxes: Boxes, image_shapes: Sizes
) -> Boxes:
    """bᵗ of bᵗ⁻¹, within the images; no gradient flows through boxes."""
    moved = stage.box_coder.decode(deltas.detach(), boxes)[:, 0]
    refined = []
    for new, old, shape in zip(
        moved.split([len(b) for b in boxes]), boxes, image_shapes, strict=True
    ):
        clipped = clip_boxes_to_image(new, shape)
        sides = clipped[:, 2:] - clipped[:, :2]
        refined.append(torch.where((sides >= SMALLEST_SIDE).all(1, keepdim=True), clipped, old))
    return refined


def mask_logits(
    stage: RoIHeads, features: Features, boxes: Boxes, image_shapes: Sizes
) -> Float[Tensor, "n classes 28 28"]:
    """What a stage's mask head draws within the boxes."""
    parts: Any = stage
    pooled = parts.mask_roi_pool(features, boxes, image_shapes)
    return parts.mask_predictor(parts.mask_head(pooled)).float()


def cascade_rcnn(pyramid: Pyramid, num_classes: int, **options: Any) -> TorchvisionDetector:
    """Cascade R-CNN with FPN.

    Args:
        pyramid: the backbone.
        num_classes: kinds of objects.
        **options: of `CascadeOptions`, and every number that torchvision's FasterRCNN takes but
            the thresholds of its one stage.
    """
    return _cascade("cascade_rcnn", FasterRCNN, pyramid, num_classes, options)


def cascade_mask_rcnn(pyramid: Pyramid, num_classes: int, **options: Any) -> TorchvisionDetector:
    """Cascade Mask R-CNN with FPN.

    Args:
        pyramid: the backbone.
        num_classes: kinds of objects.
        **options: of `CascadeOptions`, and every number that torchvision's MaskRCNN takes but the
            thresholds of its one stage.
    """
    return _cascade("cascade_mask_rcnn", MaskRCNN, pyramid, num_classes, options)


def _cascade(
    head: str,
    network_type: type[FasterRCNN],
    pyramid: Pyramid,
    num_classes: int,
    options: dict[str, Any],
) -> TorchvisionDetector:
    """torchvision's detector with the cascade instead of its second stage."""
    one_stage = ("box_fg_iou_thresh", "box_bg_iou_thresh")
    ours, theirs = split_options(head, options, CascadeOptions, network_type, one_stage)
    backbone = FeaturePyramid(pyramid, ours.fpn_channels, "pool")
    placeholders = {"box_head": nn.Identity(), "box_predictor": nn.Identity()}
    if network_type is MaskRCNN:
        placeholders |= {"mask_head": nn.Identity(), "mask_predictor": nn.Identity()}
    network = network_type(
        backbone, rpn_anchor_generator=rcnn_anchors(backbone, ours), **placeholders, **theirs
    )
    stages = [
        _stage(network.roi_heads, backbone, ours, num_classes, index)
        for index in range(len(ours.iou_thresholds))
    ]
    network.roi_heads = CascadeRoIHeads(stages, ours.loss_weights)
    return TorchvisionDetector(network, num_classes, first_label=1)


def _stage(
    single: Any, backbone: FeaturePyramid, options: CascadeOptions, num_classes: int, index: int
) -> RoIHeads:
    """Stage `index`, with the sampling and post-processing of torchvision's single one."""
    threshold = options.iou_thresholds[index]
    masks: dict[str, nn.Module] = {}
    if single.has_mask():
        masks = {
            "mask_roi_pool": roi_pool(backbone, 14),
            "mask_head": mask_head(options),
            "mask_predictor": mask_predictor(options, num_classes),
        }
    return RoIHeads(
        box_roi_pool=roi_pool(backbone, 7),
        box_head=box_head(options),
        box_predictor=AgnosticPredictor(options.representation_size, num_classes + 1),
        fg_iou_thresh=threshold,
        bg_iou_thresh=threshold,
        batch_size_per_image=single.fg_bg_sampler.batch_size_per_image,
        positive_fraction=single.fg_bg_sampler.positive_fraction,
        bbox_reg_weights=options.box_weights[index],
        score_thresh=single.score_thresh,
        nms_thresh=single.nms_thresh,
        detections_per_img=single.detections_per_img,
        **masks,
    )
