"""UPerNet and Semantic FPN: the networks of segmentation-models-pytorch on our pyramids.

UPerNet (Xiao et al. 2018) pools the coarsest map over grids of 1, 2, 3 and 6 cells and adds it down
a feature pyramid; Semantic FPN (Kirillov et al. 2019) brings every map of a feature pyramid to the
finest one's size and adds them. Both end at a quarter of the image's side, enlarged bilinearly.

Deviations from the papers' mmseg configurations, all of them smp's: UPerNet normalises each map
with a layer norm of its own and has no dropout before its classifier; Semantic FPN has group norms
and no 3 × 3 convolutions at the end of its pyramid (2.4 M parameters fewer); the last enlargement
aligns corners.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import MissingExtraError, OptionError
from foveal.models.pyramid import Pyramid
from foveal.tasks.segmentation.contract import Segmenter

if TYPE_CHECKING:
    from segmentation_models_pytorch.base import SegmentationModel

# Pixels per cell of the maps that smp's decoders are built for.
REDUCTIONS = [4, 8, 16, 32]


class PyramidEncoder(nn.Module):
    """A `Pyramid` as smp's networks know their encoders.

    Args:
        pyramid: maps of 4, 8, 16 and 32 pixels a cell.

    Attributes:
        out_channels: of the image, of the empty map of 2 pixels a cell, and of the pyramid.
        output_stride: what the sides of an image have to be a multiple of.

    Raises:
        OptionError: the maps have other sizes.
    """

    output_stride = REDUCTIONS[-1]

    def __init__(self, pyramid: Pyramid):
        super().__init__()
        if pyramid.reductions != REDUCTIONS:
            raise OptionError(
                f"UPerNet and Semantic FPN need maps of {REDUCTIONS} pixels a cell, and those of "
                f"this backbone have {pyramid.reductions}; choose a backbone of four stages."
            )
        self.pyramid = pyramid
        self.out_channels = [3, 0, *pyramid.channels]

    def forward(self, x: Float[Tensor, "b c h w"]) -> list[Tensor]:
        """The image, nothing at half its sides, and the maps, finest first."""
        b, _, h, w = x.shape
        return [x, x.new_empty(b, 0, h // 2, w // 2), *self.pyramid(x)]


class SmpSegmenter(Segmenter):
    """A network of smp as a segmenter of images of any size.

    Args:
        network: smp's, with a `PyramidEncoder`.
        num_classes: kinds of things.
        ignore_index: label of pixels that do not count.
        auxiliary: a second head, on the map of 16 pixels a cell, that only training uses.
        auxiliary_weight: of its loss.
    """

    def __init__(
        self,
        network: "SegmentationModel",
        num_classes: int,
        ignore_index: int = 255,
        auxiliary: nn.Module | None = None,
        auxiliary_weight: float = 0.4,
    ):
        super().__init__(num_classes, ignore_index)
        self.network: Any = network
        self.auxiliary = auxiliary
        self.auxiliary_weight = auxiliary_weight

    def losses(
        self, images: Float[Tensor, "b c h w"], labels: Int[Tensor, "b h w"]
    ) -> dict[str, Tensor]:
        """Mean cross-entropy over the pixels that count: "pixels", and "auxiliary" weighted."""
        network = self.network
        maps = network.encoder(self._padded(images))
        scores = network.segmentation_head(network.decoder(maps))
        losses = {"pixels": self._cross_entropy(scores, labels)}
        if self.auxiliary is not None:
            second = F.interpolate(
                self.auxiliary(maps[-2]), scores.shape[-2:], mode="bilinear", align_corners=False
            )
            losses["auxiliary"] = self.auxiliary_weight * self._cross_entropy(second, labels)
        return losses

    def scores(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes h w"]:
        """Logits at every pixel."""
        h, w = images.shape[-2:]
        return self.network(self._padded(images))[..., :h, :w]

    def _padded(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """With zeros, the mean colour, to the right and below: smp takes multiples of 32 only."""
        h, w = images.shape[-2:]
        stride = self.network.encoder.output_stride
        return F.pad(images, (0, -w % stride, 0, -h % stride))

    def _cross_entropy(
        self, scores: Float[Tensor, "b classes h2 w2"], labels: Int[Tensor, "b h w"]
    ) -> Float[Tensor, ""]:
        """In float32; 0 where no pixel counts, of which PyTorch's mean would be NaN."""
        h, w = labels.shape[-2:]
        total = F.cross_entropy(
            scores[..., :h, :w].float(), labels, ignore_index=self.ignore_index, reduction="sum"
        )
        return total / (labels != self.ignore_index).sum().clamp(min=1)


def upernet(
    pyramid: Pyramid,
    num_classes: int,
    *,
    ignore_index: int = 255,
    channels: int = 512,
    auxiliary_weight: float = 0.4,
    auxiliary_channels: int = 256,
    auxiliary_dropout: float = 0.1,
) -> SmpSegmenter:
    """UPerNet, as `smp.UPerNet`; the defaults are those of the five papers' ADE20K runs.

    Args:
        pyramid: the backbone.
        num_classes: kinds of things.
        ignore_index: label of pixels that do not count.
        channels: of all maps inside.
        auxiliary_weight: of the loss of a convolutional head on the third stage; 0 for none.
        auxiliary_channels: of that head.
        auxiliary_dropout: share of that head's channels that training leaves out.
    """
    smp = _smp()
    encoder = PyramidEncoder(pyramid)

    def decoder() -> nn.Module:
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

        return UPerNetDecoder(encoder.out_channels, decoder_channels=channels)

    network = _assembled(smp.UPerNet, encoder, decoder, channels, num_classes)
    auxiliary = None
    if auxiliary_weight:
        auxiliary = _convolutional_head(
            pyramid.channels[2], auxiliary_channels, num_classes, auxiliary_dropout
        )
    return SmpSegmenter(network, num_classes, ignore_index, auxiliary, auxiliary_weight)


def semantic_fpn(
    pyramid: Pyramid,
    num_classes: int,
    *,
    ignore_index: int = 255,
    pyramid_channels: int = 256,
    channels: int = 128,
    dropout: float = 0.1,
) -> SmpSegmenter:
    """Semantic FPN, as `smp.FPN`.

    Args:
        pyramid: the backbone.
        num_classes: kinds of things.
        ignore_index: label of pixels that do not count.
        pyramid_channels: of the feature pyramid.
        channels: of the maps that are added up; a multiple of 32, the groups of their norms.
        dropout: share of these channels that training leaves out.

    Raises:
        OptionError: `channels` is no multiple of 32.
    """
    if channels < 32 or channels % 32:
        raise OptionError(f"channels is a multiple of 32 in Semantic FPN, got {channels}.")
    smp = _smp()
    encoder = PyramidEncoder(pyramid)

    def decoder() -> nn.Module:
        from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder

        return FPNDecoder(
            encoder.out_channels,
            pyramid_channels=pyramid_channels,
            segmentation_channels=channels,
            dropout=dropout,
        )

    network = _assembled(smp.FPN, encoder, decoder, channels, num_classes)
    return SmpSegmenter(network, num_classes, ignore_index)


SMP_HEADS: dict[str, Callable[..., Segmenter]] = {"upernet": upernet, "semantic_fpn": semantic_fpn}


def _smp() -> Any:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise MissingExtraError("segmentation-models-pytorch", "dense") from error
    return smp


def _assembled(
    kind: Any,
    encoder: PyramidEncoder,
    decoder: Callable[[], nn.Module],
    channels: int,
    num_classes: int,
) -> "SegmentationModel":
    """smp's class, of parts: its constructor only knows encoders that smp can make by name."""
    from segmentation_models_pytorch.base import SegmentationHead, SegmentationModel

    network = kind.__new__(kind)
    SegmentationModel.__init__(network)
    network.encoder = encoder
    network.decoder = decoder()
    network.segmentation_head = SegmentationHead(
        channels, num_classes, kernel_size=1, upsampling=REDUCTIONS[0]
    )
    network.classification_head = None
    network.name = f"{kind.__name__.lower()}-foveal"
    network.initialize()
    return network


def _convolutional_head(
    in_channels: int, channels: int, num_classes: int, dropout: float
) -> nn.Sequential:
    """A fully convolutional network (Long et al. 2015) of one hidden layer."""
    classifier = nn.Conv2d(channels, num_classes, 1)
    # Near uniform at first, whatever the maps: the classes' logits start close to 0.
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)  # pyright: ignore[reportArgumentType]
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout2d(dropout),
        classifier,
    )
