"""What several models see in several images, side by side."""

from dataclasses import dataclass, field

from PIL import Image

from foveal.tasks.classification import ClassScore
from foveal.tools.explain.views import MapView, View

# The stage of mixers outside of all stages.
ELSEWHERE = -1


@dataclass(frozen=True, eq=False)
class BlockExplanation:
    """What one block's mixer computed.

    Attributes:
        path: of the mixer in the network, such as "stages.2.blocks.4.mixer".
        stage, block: counted from 0; a stage's downsampling is block −1. Mixers outside of all
            stages have the stage ELSEWHERE, and are counted.
        kind: of mixer, such as "focal modulation".
        views: what there is to be seen.
    """

    path: str
    stage: int
    block: int
    kind: str
    views: tuple[View, ...]


@dataclass(frozen=True, eq=False)
class ModelExplanation:
    """One model on one image.

    Attributes:
        model: its name.
        source: where its weights come from.
        is_trained: whether they are any but random ones.
        picture: what the model saw of the image, upright, in colour, at screen resolution.
        input_size: height and width of the input in pixels.
        scores: the likeliest classes; empty without a classifier.
        blocks: of all mixers that have readings, in the order of the network; may be empty.
        activation: the class activation map over the picture, or None.
        views: of the network as a whole, such as its receptive field; may be empty.
        note: what keeps something from being shown, or None.
    """

    model: str
    source: str
    is_trained: bool
    picture: Image.Image = field(repr=False)
    input_size: tuple[int, int]
    scores: tuple[ClassScore, ...]
    blocks: tuple[BlockExplanation, ...] = field(repr=False)
    activation: MapView | None = None
    views: tuple[View, ...] = field(default=(), repr=False)
    note: str | None = None

    @property
    def last_blocks(self) -> tuple[BlockExplanation, ...]:
        """Of each stage, as the papers show them."""
        last = {b.stage: b for b in self.blocks if b.block >= 0 and b.stage != ELSEWHERE}
        return tuple(block for _, block in sorted(last.items()))


@dataclass(frozen=True, eq=False)
class ImageExplanation:
    """One image.

    Attributes:
        name: of the file.
        models: what each saw, in the same order for all images.
        notices: what was done to the image, in sentences.
    """

    name: str
    models: tuple[ModelExplanation, ...]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Explanation:
    """All of it: images × models."""

    images: tuple[ImageExplanation, ...]
