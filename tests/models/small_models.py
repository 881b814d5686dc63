"""Networks small enough to be saved, served and loaded many times over."""

from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import foveal
from foveal.models.backbone import Backbone
from foveal.models.convert import to_official
from foveal.models.family import family_of

_Module = TypeVar("_Module", bound=nn.Module)

SHALLOW: dict[str, Any] = {"embed_dim": 16, "depths": (1, 1, 1, 1)}


def small_focalnet(seed: int = 0, **options: Any) -> Backbone:
    """A FocalNet of four blocks, with weights that depend on the seed alone."""
    torch.manual_seed(seed)
    model = foveal.create_model("focalnet_tiny_srf", **{"num_classes": 10, **SHALLOW, **options})
    assert isinstance(model, Backbone)
    return randomized(model).eval()


def randomized(model: _Module) -> _Module:
    """Every parameter away from its initial zeros and ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def official(model: Backbone) -> dict[str, Tensor]:
    """The model's state dict as its authors' code would save it."""
    return to_official(family_of(model), model.config, model.state_dict())


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks have the same weights."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(v, theirs[k]) for k, v in ours.items())


def images(channels: int = 3) -> Tensor:
    """Two images of 64 × 48."""
    return torch.randn(2, channels, 64, 48, generator=torch.Generator().manual_seed(1))
