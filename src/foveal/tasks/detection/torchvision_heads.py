"""torchvision's detectors on any backbone: Faster and Mask R-CNN, RetinaNet, FCOS."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from foveal.errors import FovealError, OptionError, closest
from foveal.models.pyramid import Pyramid
from foveal.tasks.detection.contract import Detector, Found, Image, Target
from foveal.tasks.detection.fpn import FeaturePyramid

# Every backbone can halve an image padded to this five times.
PADDING_MULTIPLE = 32

# A pixel belongs to an object from this probability up, as in Mask R-CNN.
MASK_THRESHOLD = 0.5

# What torchvision's constructors take as numbers though it is ours to say.
_NOT_FOR_USERS = {"num_classes", "min_size", "max_size"}

_Options = TypeVar("_Options")


@dataclass(frozen=True, kw_only=True)
class RCNNOptions:
    """Of heads with a second stage.

    Attributes:
        fpn_channels: of every level of the feature pyramid, and of a mask head's layers.
        representation_size: width of the two layers that a box's features go through.
        anchor_scale: side of an anchor, in cells of its level.
        aspect_ratios: height by width of the anchors.
    """

    fpn_channels: int = 256
    representation_size: int = 1024
    anchor_scale: float = 8.0
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class RetinaNetOptions:
    """Of RetinaNet.

    Attributes:
        fpn_channels: of every level of the feature pyramid.
        anchor_scale: side of the smallest of a cell's anchors, in cells of its level; there are
            three sides an octave.
        aspect_ratios: height by width of the anchors.
    """

    fpn_channels: int = 256
    anchor_scale: float = 4.0
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)


@dataclass(frozen=True, kw_only=True)
class FCOSOptions:
    """Of FCOS.

    Attributes:
        fpn_channels: of every level of the feature pyramid, 64 or another multiple of 32 above.
    """

    fpn_channels: int = 256


class AsGiven(GeneralizedRCNNTransform):
    """Batches images of any sizes, padded below and right, and changes nothing else.

    They come normalised and resized: torchvision's own class would do both once more.
    """

    def __init__(self):
        super().__init__(1, 1, [0.0], [1.0], size_divisible=PADDING_MULTIPLE)

    def normalize(self, image: Tensor) -> Tensor:
        """The image."""
        return image

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Both."""
        return image, target

    def __repr__(self) -> str:
        return f"AsGiven(size_divisible={self.size_divisible})"


class TorchvisionDetector(Detector):
    """One of torchvision's detectors behind our contract.

    Args:
        network: torchvision's, whose `backbone` has a `Pyramid` inside.
        num_classes: kinds of objects, background not counted.
        first_label: the network's name for class 0: 1 where 0 is background.

    Attributes:
        network: the same; called directly it speaks torchvision's language, but takes normalised
            images as they are.
    """

    def __init__(self, network: nn.Module, num_classes: int, *, first_label: int):
        super().__init__(num_classes)
        network.transform = AsGiven()
        self.network = network
        self.first_label = first_label
        self.has_masks = isinstance(network, MaskRCNN)
        for module in network.modules():
            if isinstance(module, _DECODED):
                module.register_forward_hook(_in_float32)

    def losses(self, images: Sequence[Image], targets: Sequence[Target]) -> dict[str, Tensor]:
        """By torchvision's names, in training and in eval mode."""
        with self._mode(training=True):
            return self.network(list(images), [self._objects(target) for target in targets])

    def find(self, images: Sequence[Image]) -> list[Found]:
        """By torchvision's post-processing, in eval and in training mode."""
        with self._mode(training=False):
            results = self.network(list(images))
        return [self._found(result) for result in results]

    @contextmanager
    def _mode(self, training: bool) -> Iterator[None]:
        """Tell torchvision what is asked for, and leave dropout and norms as they are."""
        parts = [self.network]
        parts += [m for name, m in self.network.named_children() if name != "backbone"]
        before = [part.training for part in parts]
        for part in parts:
            part.training = training
        try:
            yield
        finally:
            for part, mode in zip(parts, before, strict=True):
                part.training = mode

    def _objects(self, target: Target) -> dict[str, Tensor]:
        """What to learn from: the network's labels, no crowds, masks only where it draws them."""
        crowd = target.get("crowd")
        kept = torch.ones_like(target["labels"], dtype=torch.bool) if crowd is None else ~crowd
        objects = {
            "boxes": target["boxes"].as_subclass(Tensor).float()[kept],
            "labels": target["labels"][kept] + self.first_label,
        }
        if self.has_masks:
            if "masks" not in target:
                raise FovealError(
                    "A head that draws masks learns from masks, and the targets have boxes only; "
                    "give masks, or choose the head of the same name without mask."
                )
            objects["masks"] = target["masks"].as_subclass(Tensor)[kept]
        return objects

    def _found(self, result: Mapping[str, Tensor]) -> Found:
        found = Found(
            boxes=result["boxes"],
            labels=result["labels"] - self.first_label,
            scores=result["scores"],
        )
        if "masks" in result:
            found["masks"] = result["masks"][:, 0] >= MASK_THRESHOLD
        return found


# Parts whose outputs become boxes and scores: too coarse in the half precisions of autocast.
_DECODED = (RPNHead, FastRCNNPredictor, RetinaNetHead, FCOSHead)


def _in_float32(module: nn.Module, args: Any, output: Any) -> Any:
    """A forward hook that leaves single and double precision alone."""
    if isinstance(output, Tensor):
        return output.float() if output.element_size() < 4 else output
    if isinstance(output, dict):
        return {name: _in_float32(module, args, part) for name, part in output.items()}
    return type(output)(_in_float32(module, args, part) for part in output)


def faster_rcnn(pyramid: Pyramid, num_classes: int, **options: Any) -> TorchvisionDetector:
    """Faster R-CNN with FPN (Ren et al. 2015, Lin et al. 2017).

    Args:
        pyramid: the backbone.
        num_classes: kinds of objects.
        **options: of `RCNNOptions`, and every number that torchvision's class takes, such as
            `box_score_thresh`.
    """
    ours, theirs = split_options("faster_rcnn", options, RCNNOptions, FasterRCNN)
    backbone = FeaturePyramid(pyramid, ours.fpn_channels, "pool")
    network = FasterRCNN(
        backbone,
        rpn_anchor_generator=rcnn_anchors(backbone, ours),
        box_roi_pool=roi_pool(backbone, 7),
        box_head=box_head(ours),
        box_predictor=FastRCNNPredictor(ours.representation_size, num_classes + 1),
        **theirs,
    )
    return TorchvisionDetector(network, num_classes, first_label=1)


def mask_rcnn(pyramid: Pyramid, num_classes: int, **options: Any) -> TorchvisionDetector:
    """Mask R-CNN with FPN (He et al. 2017).

    Args:
        pyramid: the backbone.
        num_classes: kinds of objects.
        **options: of `RCNNOptions`, and every number that torchvision's class takes.
    """
    ours, theirs = split_options("mask_rcnn", options, RCNNOptions, MaskRCNN)
    backbone = FeaturePyramid(pyramid, ours.fpn_channels, "pool")
    network = MaskRCNN(
        backbone,
        rpn_anchor_generator=rcnn_anchors(backbone, ours),
        box_roi_pool=roi_pool(backbone, 7),
        box_head=box_head(ours),
        box_predictor=FastRCNNPredictor(ours.representation_size, num_classes + 1),
        mask_roi_pool=roi_pool(backbone, 14),
        mask_head=mask_head(ours),
        mask_predictor=mask_predictor(ours, num_classes),
        **theirs,
    )
    return TorchvisionDetector(network, num_classes, first_label=1)


def retinanet(pyramid: Pyramid, num_classes: int, **options: Any) -> TorchvisionDetector:
    """RetinaNet (Lin et al. 2017).

    Args:
        pyramid: the backbone.
        num_classes: kinds of objects.
        **options: of `RetinaNetOptions`, and every number that torchvision's class takes, such as
            `score_thresh`.
    """
    ours, theirs = split_options("retinanet", options, RetinaNetOptions, RetinaNet)
    backbone = FeaturePyramid(pyramid, ours.fpn_channels, "p6p7")
    sides = [ours.anchor_scale * stride for stride in backbone.strides]
    sizes = tuple(tuple(int(side * 2 ** (i / 3)) for i in range(3)) for side in sides)
    ratios = (tuple(ours.aspect_ratios),) * len(sizes)
    network = RetinaNet(
        backbone, num_classes, anchor_generator=AnchorGenerator(sizes, ratios), **theirs
    )
    return TorchvisionDetector(network, num_classes, first_label=0)


def fcos(pyramid: Pyramid, num_classes: int, **options: Any) -> TorchvisionDetector:
    """FCOS (Tian et al. 2019).

    Args:
        pyramid: the backbone.
        num_classes: kinds of objects.
        **options: of `FCOSOptions`, and every number that torchvision's class takes, such as
            `score_thresh`.
    """
    ours, theirs = split_options("fcos", options, FCOSOptions, FCOS)
    # A group of one channel has nothing to norm in a map of one cell.
    if ours.fpn_channels % 32 or ours.fpn_channels < 64:
        raise OptionError(
            f"fpn_channels of fcos is a multiple of 32 from 64 up, for the 32 groups of its "
            f"norms, got {ours.fpn_channels}."
        )
    backbone = FeaturePyramid(pyramid, ours.fpn_channels, "p6p7")
    points = AnchorGenerator(
        tuple((stride,) for stride in backbone.strides), ((1.0,),) * len(backbone.strides)
    )
    network = FCOS(backbone, num_classes, anchor_generator=points, **theirs)
    return TorchvisionDetector(network, num_classes, first_label=0)


def rcnn_anchors(backbone: FeaturePyramid, options: RCNNOptions) -> AnchorGenerator:
    """One size a level, in every shape."""
    sizes = tuple((options.anchor_scale * stride,) for stride in backbone.strides)
    return AnchorGenerator(sizes, (tuple(options.aspect_ratios),) * len(sizes))


def roi_pool(backbone: FeaturePyramid, size: int) -> MultiScaleRoIAlign:
    """RoIAlign to `size` by `size` cells, from the level that suits a box."""
    pool = MultiScaleRoIAlign(backbone.backbone_levels, size, sampling_ratio=2)
    # Else torchvision guesses them from its first batch, wrongly where much of it is padding.
    strides = torch.tensor(backbone.strides[: len(backbone.backbone_levels)])
    levels = strides.log2().round().int().tolist()
    pool.scales = [2.0**-level for level in levels]
    pool.map_levels = initLevelMapper(levels[0], levels[-1])
    return pool


def box_head(options: RCNNOptions) -> TwoMLPHead:
    """Two layers over a box's 7 × 7 cells."""
    return TwoMLPHead(options.fpn_channels * 7**2, options.representation_size)


def mask_head(options: RCNNOptions) -> MaskRCNNHeads:
    """Four convolutions over a box's 14 × 14 cells."""
    return MaskRCNNHeads(options.fpn_channels, (options.fpn_channels,) * 4, 1)


def mask_predictor(options: RCNNOptions, num_classes: int) -> MaskRCNNPredictor:
    """28 × 28 logits a class."""
    return MaskRCNNPredictor(options.fpn_channels, options.fpn_channels, num_classes + 1)


def split_options(
    head: str,
    given: Mapping[str, Any],
    ours: type[_Options],
    library: type,
    without: Sequence[str] = (),
) -> tuple[_Options, dict[str, Any]]:
    """Our options and those of torchvision's class, which ignores names that it does not know.

    Raises:
        OptionError: neither knows one; names the closest and all.
    """
    own: list[str] = [field.name for field in fields(ours)]  # pyright: ignore[reportArgumentType]
    numbers = [
        name
        for name, parameter in inspect.signature(library).parameters.items()
        if isinstance(parameter.default, int | float) and name not in {*_NOT_FOR_USERS, *without}
    ]
    for name in given:
        if name not in (*own, *numbers):
            raise OptionError(
                f"{head} has no option {name!r}.{closest(name, [*own, *numbers])} "
                f"It takes {', '.join([*own, *numbers])}."
            )
    chosen = ours(**{name: value for name, value in given.items() if name in own})
    return chosen, {name: value for name, value in given.items() if name in numbers}
