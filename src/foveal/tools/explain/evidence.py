"""Views of a network as a whole: class activation, how faithful it is, and its receptive field."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn

from foveal.errors import FovealError, first_line
from foveal.tools.explain.class_activation import ClassActivation, class_activation_map
from foveal.tools.explain.faithfulness import insertion_deletion
from foveal.tools.explain.receptive_field import effective_receptive_field
from foveal.tools.explain.views import CurveView, MapView

OnDone = Callable[[int, int], None]


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
        if activation.map_size == (1, 1):
            return "No class activation: the last map is 1 × 1, so all places are alike."
        return f"No class activation: {method} finds nothing that speaks for the likeliest class."
    return activation


def faithfulness_view(
    model: nn.Module, image: Float[Tensor, "1 c h w"], activation: ClassActivation
) -> CurveView:
    """Insertion and deletion curves of a map, beside the means of smooth random maps."""
    curves = insertion_deletion(model, image, activation.maps[:1], activation.targets[:1], steps=16)
    insertion, deletion = curves.random_insertion[0], curves.random_deletion[0]
    by_chance = [
        f"area {area[0]:.2f} ± {spread[0]:.2f}"
        for area, spread in (
            (curves.random_insertion_area, curves.random_insertion_spread),
            (curves.random_deletion_area, curves.random_deletion_spread),
        )
    ]
    named = {
        f"insertion, area {curves.insertion_area[0]:.2f}": curves.insertion[0],
        f"deletion, area {curves.deletion_area[0]:.2f}": curves.deletion[0],
        f"insertion, random maps, {by_chance[0]}": insertion.mean(0),
        f"deletion, random maps, {by_chance[1]}": deletion.mean(0),
    }
    return CurveView(
        "faithfulness of the class activation",
        "Probability of the class as its most important pixels are put into a blurred image or "
        "blurred one after the other, and the area under it; beside it the mean, and the standard "
        f"deviation of the areas, of {len(insertion)} smooth random maps. By both areas the map is "
        f"better than {curves.num_random_beaten[0]} of the {len(insertion)}.",
        tuple(named),
        curves.fractions,
        np.stack(list(named.values())),
        "share of the pixels",
        "probability",
    )


def try_receptive_field(
    model: nn.Module, images: Float[Tensor, "n c h w"], progress: OnDone | None = None
) -> MapView | str:
    """The view of the effective receptive field, or why there is none."""
    try:
        return receptive_field_view(model, images, progress)
    except FovealError as error:
        return f"No receptive field: {error}"
    except (RuntimeError, AssertionError) as error:
        height, width = images.shape[-2:]
        return (
            f"No receptive field: {type(model).__name__} fails on images of {width} × {height} "
            f"pixels: {first_line(error).rstrip('.')}."
        )


def receptive_field_view(
    model: nn.Module, images: Float[Tensor, "n c h w"], progress: OnDone | None = None
) -> MapView:
    """The effective receptive field over the given images, its size and how blocky it is."""
    field = effective_receptive_field(model, images, progress=progress)
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
