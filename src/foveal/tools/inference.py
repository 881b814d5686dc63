"""A network made ready to be used and no longer trained: fewer operations, the same outputs."""

from copy import deepcopy
from itertools import pairwise

import torch
from timm.layers import LayerScale2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from foveal.errors import OptionError
from foveal.kernels.tables import freeze
from foveal.layers.mlp import Mlp
from foveal.layers.packed import (
    PackedConvGLU,
    PackedLinear,
    PackedMlp,
    PackedPointwise,
    is_pointwise,
)
from foveal.models.dat_local import NeighborhoodAttention
from foveal.models.transnext import ConvGLU
from foveal.models.transnext_bias import LogSpacedPositionBias


def prepare_for_inference(model: nn.Module) -> nn.Module:
    """A frozen copy of a network that computes the same with less work.

    Batch normalisation is folded into the convolution before it and LayerScale into the layer
    before it; tables made from parameters (position biases) are kept for each image size, up to
    256 MiB in all; linear layers and 1 × 1 convolutions lay out their weights once for float32 on a
    CPU, which takes the weights' memory a second time. Outputs equal the original's to 1e-5. The
    copy is in evaluation mode and no parameter requires a gradient: train the original.

    Args:
        model: any network of Foveal, on any device. It is left as it is.

    Raises:
        OptionError: the model was prepared already.
    """
    if any(isinstance(module, PackedLinear) for module in model.modules()):
        raise OptionError("This model is prepared for inference already: prepare the original.")
    model = deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        for module in list(model.modules()):
            _fold_batch_norms(module)
            _fold_layer_scales(module)
        for module in list(model.modules()):
            _freeze_tables(module)
        _pack(model)
    return model


def _fold_batch_norms(parent: nn.Module) -> None:
    """Wherever a convolution and its normalisation follow each other in an nn.Sequential."""
    if not isinstance(parent, nn.Sequential):
        return
    children = list(parent.named_children())
    for (name, conv), (norm_name, norm) in pairwise(children):
        if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
            setattr(parent, name, fuse_conv_bn_eval(conv, norm))
            setattr(parent, norm_name, nn.Identity())


# A block's LayerScale, the branch it scales, and the norm after that branch where there is one.
_SCALES = (
    ("layer_scale", "mixer", None),
    ("layer_scale1", "mixer", "norm1"),
    ("layer_scale2", "channel_mixer", "norm2"),
)


def _fold_layer_scales(block: nn.Module) -> None:
    for name, branch, norm in _SCALES:
        scale = getattr(block, name, None)
        if not isinstance(scale, LayerScale2d):
            continue
        after = norm if norm and getattr(block, "use_postln", False) else None
        last = getattr(block, after) if after else _last_layer(getattr(block, branch))
        if last is None:
            continue
        _scale(last, scale.gamma)
        setattr(block, name, nn.Identity())


def _last_layer(branch: nn.Module) -> nn.Module | None:
    """The linear layer that a mixer ends with, by the names they have in all families."""
    for name in ("proj", "fc2"):
        if isinstance(getattr(branch, name, None), nn.Linear | nn.Conv2d):
            return getattr(branch, name)
    return None


def _scale(layer: nn.Module, gamma: Tensor) -> None:
    """Multiply what a linear layer, a convolution or an affine norm gives out, by channels."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    weight.mul_(gamma.view(-1, *[1] * (weight.ndim - 1)))
    if isinstance(bias, Tensor):
        bias.mul_(gamma)


def _freeze_tables(module: nn.Module) -> None:
    if isinstance(module, LogSpacedPositionBias):
        freeze(module.fc1.weight)
    elif isinstance(module, NeighborhoodAttention):
        freeze(module.relative_position_bias)


def _pack(parent: nn.Module) -> None:
    if isinstance(parent, LogSpacedPositionBias):
        return
    for name, child in list(parent.named_children()):
        if type(child) is Mlp:
            setattr(parent, name, PackedMlp(child))
        elif type(child) is ConvGLU:
            setattr(parent, name, PackedConvGLU(child.fc1, child.dwconv, child.fc2))
        elif type(child) is nn.Linear:
            setattr(parent, name, PackedLinear(child))
        elif is_pointwise(child):
            assert isinstance(child, nn.Conv2d)
            setattr(parent, name, PackedPointwise(child))
        else:
            _pack(child)
