"""Views of a network as a whole: class activation, how faithful it is, and its receptive field."""

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from foveal.errors import FovealError
from foveal.tools.explain.class_activation import ClassActivation, class_activation_map
from foveal.tools.explain.faithfulness import insertion_deletion
from foveal.tools.explain.receptive_field import effective_receptive_field
from foveal.tools.explain.views import CurveView, MapView


def activation_view(activation: ClassActivation, class_name: str) -> MapView:
    """The first image's map."""
    return MapView(
        "class activation",
        f"What speaks for this class by {activation.method} at {activation.layer}, relative to the "
        "strongest place, from 0 to 1.",
        (class_name,),
        activation.maps[:1],
    )


def try_activation(
    model: nn.Module, image: Float[Tensor, "1 c h w"], method: str
) -> ClassActivation | str:
    """The map of the likeliest class, or why there is none."""
    try:
        activation = class_activation_map(model, image, method=method)
    except FovealError as error:
        return f"No class activation: {error}"
    if activation.is_empty[0]:
        return f"No class activation: {method} finds nothing that speaks for the likeliest class."
    return activation


def faithfulness_view(
    model: nn.Module, image: Float[Tensor, "1 c h w"], activation: ClassActivation
) -> CurveView:
    """Insertion and deletion curves of a map, beside those of a random order."""
    curves = insertion_deletion(model, image, activation.maps[:1], activation.targets[:1], steps=16)
    named = {
        "insertion": (curves.insertion, curves.insertion_area),
        "deletion": (curves.deletion, curves.deletion_area),
        "insertion, at random": (curves.random_insertion, curves.random_insertion_area),
        "deletion, at random": (curves.random_deletion, curves.random_deletion_area),
    }
    verdict = "better" if curves.beats_chance[0] else "no better"
    return CurveView(
        "faithfulness of the class activation",
        "Probability of the class as its most important pixels are put into a blurred image or "
        f"blurred one after the other, and the area under it; {verdict} than a random order.",
        tuple(f"{name}, area {area[0]:.2f}" for name, (_, area) in named.items()),
        curves.fractions,
        np.stack([curve[0] for curve, _ in named.values()]),
        "share of the pixels",
        "probability",
    )


def receptive_field_view(model: nn.Module, images: Float[Tensor, "n c h w"]) -> MapView:
    """The effective receptive field over the given images, its size and how blocky it is."""
    field = effective_receptive_field(model, images)
    blocks = field.strongest_blockiness()
    shares = ", ".join(
        f"{share:.0%} in {field.high_contribution_area(share):.1%} of the image"
        for share in (0.5, 0.95)
    )
    # As in the definition of blockiness: in units of an even spread, damped above it.
    shown = np.log1p(field.contributions * field.contributions.size)
    return MapView(
        "effective receptive field",
        f"log(1 + contribution over the mean's) of each pixel to the middle of the last map, over "
        f"{field.num_images} image{'s' if field.num_images > 1 else ''}: {shares}; blockiness "
        f"{blocks.score:.2f} at {blocks.period} pixels, 1 being none.",
        ("all channels",),
        shown[None].astype(np.float32),
        over_image=False,
    )


def try_receptive_field(model, images, progress=None):
    """Replaced by a merge."""
    return receptive_field_view(model, images)
