"""Class activation maps of any image classifier, through the library grad-cam."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.errors import FovealError, MissingExtraError, OptionError, closest
from foveal.tools.explain.features import (
    as_map,
    image_size,
    is_patch_grid,
    last_feature,
    num_prefix_tokens,
    placed_as,
    require_gradient,
    undisturbed,
)

# The names of the papers, and of the library's classes.
METHODS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "scorecam": "ScoreCAM",
}

# Differences within a map below this share of its terms are float32's, summed over channels.
_ROUNDING = 1e-6

# Said where the default layer fails as well, which nobody chose.
_REMEDY = "class_activation_map takes another as layer, a module or its name"

Targets = int | Sequence[int] | Int[np.ndarray, "b"] | Int[Tensor, "b"]


@dataclass(frozen=True)
class ClassActivation:
    """Where in each image the evidence for a class is, as one method has it.

    Attributes:
        maps: (b h w) float32 at the image's resolution, in [0, 1]: what speaks against the class
            is 0, the most of each image 1. All zero where nothing speaks for the class, or where
            everything does alike but for rounding.
        targets: the class of each image (b).
        method: one of METHODS.
        layer: name in the model of the layer whose output was weighed.
        map_size: rows and columns of that output.
    """

    maps: Float[np.ndarray, "b h w"]
    targets: Int[np.ndarray, "b"]
    method: str
    layer: str
    map_size: tuple[int, int]

    @property
    def is_empty(self) -> Bool[np.ndarray, "b"]:
        """For each image whether its map is zero everywhere, and so says nothing."""
        return self.maps.max(axis=(1, 2)) == 0


def class_activation_map(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    *,
    targets: Targets | None = None,
    method: str = "gradcam",
    layer: nn.Module | str | None = None,
) -> ClassActivation:
    """The map of class activation of each image.

    Args:
        model: any classifier; computes in evaluation mode and is left as it is.
        images: prepared as the network takes them.
        targets: a class for all images or one for each; by default each image's likeliest.
        method: one of METHODS. "eigencam" is the same for every class, with the sign that makes
            its largest value positive; "scorecam" takes a pass for each channel of the layer.
        layer: whose output is weighed, as a module or its name; by default the last stage, or
            the last block's first norm in a ViT whose class token passes through that block,
            behind which patches no longer matter.

    Raises:
        FovealError: no classifier, a target that it has not, a layer that gives no map, an
            unknown method, or grad-cam is not installed.
    """
    if method not in METHODS:
        raise OptionError(
            f"A method is one of {', '.join(METHODS)}; got {method!r}.{closest(method, METHODS)}"
        )
    # Hooks and names are those of the module that torch.compile wraps.
    model = getattr(model, "_orig_mod", model)
    size = image_size(images)
    name, module = _find_layer(model, layer)
    with undisturbed(model):
        images = placed_as(model, images).detach().clone()
        logits, shape = _try_layer(model, images, name, module)
        if layer is None and _joins_later(model, name, shape, size):
            # Blocks without the class token, as CaiT's: what leaves the last of them counts.
            name = name.removesuffix(".norm1")
            module = model.get_submodule(name)
            logits, shape = _try_layer(model, images, name, module)
        classes = check_targets(logits.argmax(1) if targets is None else targets, *logits.shape)
        to_map = partial(
            as_map,
            image_size=size,
            channels=_channels(model, name),
            num_prefix_tokens=num_prefix_tokens(model),
            stride=last_feature(model).get("reduction"),
            source=f"Layer {name!r}",
            remedy=_REMEDY,
        )
        map_size = to_map(torch.empty(shape, device="meta")).shape[2:]
        maps = _run(model, module, images, classes, method, to_map)
    # The library divides by the maximum plus a constant, which leaves it just under 1.
    peaks = maps.max(axis=(1, 2), keepdims=True)
    maps = np.divide(maps, peaks, out=np.zeros_like(maps), where=peaks > 0)
    return ClassActivation(maps, classes, method, name, (map_size[0], map_size[1]))


def class_logits(model: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
    """The logits of a classifier.

    Raises:
        FovealError: the model has no classifier.
    """
    logits = None if getattr(model, "num_classes", None) == 0 else model(images)
    # As the models of transformers give them.
    logits = getattr(logits, "logits", logits)
    if isinstance(logits, Tensor) and logits.ndim == 2:
        return logits
    given = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else "no logits"
    raise FovealError(
        f"{type(model).__name__} has no classifier: it gives {given} instead of (images, classes); "
        "create it with num_classes."
    )


def check_targets(targets: Targets, number: int, num_classes: int) -> Int[np.ndarray, "b"]:
    """One class index for each image.

    Args:
        targets: one for all images or one for each.
        number: of images.
        num_classes: that the model tells apart.

    Raises:
        OptionError: not one class, or one for each image, or one that the model has not.
    """
    given = targets.cpu() if isinstance(targets, Tensor) else targets
    classes = np.asarray(given)
    if not np.issubdtype(classes.dtype, np.integer) or classes.shape not in ((), (number,)):
        raise OptionError(
            f"Targets are one class or one for each of {number} images, as whole numbers; "
            f"got {targets!r}."
        )
    for target in classes.ravel():
        if not 0 <= target < num_classes:
            raise OptionError(f"The model has classes 0 to {num_classes - 1}; got target {target}.")
    return np.broadcast_to(classes, (number,)).astype(np.int64)


def _find_layer(model: nn.Module, layer: nn.Module | str | None) -> tuple[str, nn.Module]:
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        found = [name for name, module in modules.items() if module is layer]
        if not found:
            raise OptionError(
                f"The layer given, a {type(layer).__name__}, is no part of "
                f"{type(model).__name__}: give one of its modules or its name."
            )
        return found[0], layer
    if layer is None:
        layer = _default_layer(model, modules)
    if layer not in modules:
        raise OptionError(
            f"{type(model).__name__} has no layer {layer!r}.{closest(layer, modules)}"
        )
    return layer, modules[layer]


def _default_layer(model: nn.Module, modules: dict[str, nn.Module]) -> str:
    last = last_feature(model).get("module", "")
    # Only the class token of the last block goes on, so that its patches have no gradient.
    if getattr(model, "global_pool", None) == "token":
        # A stage of blocks, as PiT's, ends in its last one.
        depth = len(list(modules.get(f"{last}.blocks", nn.Sequential()).children()))
        for block in (last, f"{last}.blocks.{depth - 1}"):
            if f"{block}.norm1" in modules:
                return f"{block}.norm1"
    for name in (last, "norm"):
        if name and name in modules:
            return name
    raise OptionError(
        f"{type(model).__name__} does not say which layer ends its last stage: "
        "class_activation_map takes one as layer, a module or its name, such as the last "
        "convolution's."
    )


def _joins_later(model: nn.Module, name: str, shape: torch.Size, size: tuple[int, int]) -> bool:
    """Whether the class token is not yet among the tokens that this norm gives."""
    declared = num_prefix_tokens(model)
    if not declared or len(shape) != 3 or not name.endswith(".norm1"):
        return False
    return is_patch_grid(shape[1], size) and not is_patch_grid(shape[1] - declared, size)


def _channels(model: nn.Module, layer: str) -> int | None:
    """Channels of the layer's output where the model says them."""
    last = last_feature(model)
    if layer == last.get("module"):
        return last.get("num_chs")
    return getattr(model, "num_features", None) if layer == "norm" else None


def _try_layer(
    model: nn.Module, images: Tensor, name: str, module: nn.Module
) -> tuple[Float[Tensor, "b classes"], torch.Size]:
    """The logits, and the shape of what the layer gives on the way to them."""
    outputs: list[Any] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        with torch.no_grad():
            logits = class_logits(model, images)
    finally:
        handle.remove()
    if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
        what = f"runs {len(outputs)} times" if len(outputs) != 1 else "gives no tensor"
        raise OptionError(
            f"Layer {name!r} {what} in a pass instead of one map of features: {_REMEDY}."
        )
    return logits, outputs[0].shape


class _Visited(nn.Module):
    """A model as a guest: what the library sets on all modules and parameters ends here."""

    def __init__(self, model: nn.Module, images: Tensor):
        super().__init__()
        # In a tuple, so that it is no part of this module; the parameter says which device.
        self.guest = (model,)
        self.place = nn.Parameter(images.new_zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        logits = class_logits(self.guest[0], images)
        if torch.is_grad_enabled():
            require_gradient(logits, self.guest[0])
        return logits


def _run(
    model: nn.Module,
    module: nn.Module,
    images: Tensor,
    targets: Int[np.ndarray, "b"],
    method: str,
    to_map: Callable[[Tensor], Tensor],
) -> Float[np.ndarray, "b h w"]:
    try:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise MissingExtraError("grad-cam", "explain") from error
    # Copied, as a later layer may write into what this one gave; in a type that NumPy has.
    cam = getattr(pytorch_grad_cam, METHODS[method])(
        _Visited(model, images), [module], lambda features: to_map(features).float().clone()
    )
    cam.get_cam_image = partial(_clean, cam.get_cam_image, method, cam.uses_gradients)
    # An image of channels masked images in memory at a time.
    batches = images.split(1 if method == "scorecam" else len(images))
    aims = [ClassifierOutputTarget(target) for target in targets]
    maps: list[np.ndarray] = []
    try:
        with _quiet(), torch.set_grad_enabled(cam.uses_gradients):
            for batch in batches:
                leaf = batch.clone().requires_grad_(cam.uses_gradients)
                maps.append(cam(leaf, aims[len(maps) : len(maps) + len(batch)]))
    finally:
        cam.activations_and_grads.release()
    return np.concatenate(maps).astype(np.float32)


def _clean(
    compute: Callable[..., np.ndarray],
    method: str,
    uses_gradients: bool,
    images: Tensor,
    layer: nn.Module,
    aims: list[Any],
    activations: Float[np.ndarray, "b c h w"],
    gradients: Float[np.ndarray, "b c h w"] | None,
    *smooth: bool,
) -> Float[np.ndarray, "b h w"]:
    """The method's map before it is cut off at 0, and zeros where it is nothing but rounding.

    The library stretches whatever a map holds to [0, 1].
    """
    if uses_gradients and gradients is None:
        raise OptionError(
            "The class does not depend on this layer, as no gradient reaches it: "
            f"{_REMEDY}, one that lies between the image and the classifier."
        )
    maps = compute(images, layer, aims, activations, gradients, *smooth)
    axes = (1, 2)
    if method == "eigencam":
        # A principal component has no sign of its own: its largest value is made positive.
        flipped = -maps.min(axes, keepdims=True) > maps.max(axes, keepdims=True)
        maps = np.where(flipped, -maps, maps)
    # What was added up; Grad-CAM++ weighs it by powers of the gradients instead.
    scale = np.abs(maps).max(axes)
    if gradients is not None and method != "gradcam++":
        terms = np.abs(gradients).max((2, 3)) * np.abs(activations).max((2, 3))
        scale = np.maximum(scale, terms.sum(1))
    elif gradients is None:
        scale = np.maximum(scale, np.abs(activations).max((1, 2, 3)))
    seen = np.maximum(maps, 0)
    told = seen.max(axes) - seen.min(axes) > _ROUNDING * scale
    return np.where(told[:, None, None], maps, 0)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bar that ScoreCAM draws for every image."""
    from pytorch_grad_cam import score_cam

    bars = score_cam.tqdm
    score_cam.tqdm = SimpleNamespace(tqdm=lambda batches: batches)
    try:
        yield
    finally:
        score_cam.tqdm = bars
