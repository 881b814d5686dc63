"""One small, freshly drawn network a family, for tests of what all families share."""

from typing import Any

import torch

import foveal
from foveal.models.backbone import Backbone
from tests.golden.deterministic import weight

SMALLEST = (
    "focalnet_tiny_srf",
    "transnext_micro",
    "cloformer_xxs",
    "dat_tiny",
    "dat_pp_tiny",
    "efficientmod_xxs",
)

# The same networks, a block or two per stage and few channels, where depth proves nothing.
SHALLOW: dict[str, dict[str, Any]] = {
    "focalnet_tiny_srf": {"depths": (1, 1, 1, 1), "embed_dim": 16},
    "focalnet_tiny_iso": {"depths": (3,), "embed_dim": 32},
    "transnext_micro": {"depths": (1, 1, 1, 1)},
    "cloformer_xxs": {"depths": (2, 1, 1, 1)},
    "dat_tiny": {"depths": (2, 1, 2, 1), "stage_spec": ("LS", "S", "LD", "D")},
    "dat_pp_tiny": {"depths": (2, 1, 1, 1), "stage_spec": ("ND", "N", "D", "D")},
    "efficientmod_xxs": {"depths": (2, 1, 1, 1), "attention_depth": (0, 0, 1, 1)},
}


def shallow(name: str, **options: Any) -> Backbone:
    """A shallow network of the variant's kind with weights that matter everywhere.

    Fresh networks hide mistakes behind layer scales of 1e-4 and tables of zeros.
    """
    model = shallow_features(name, **options)
    assert isinstance(model, Backbone)
    return model


def shallow_features(name: str, **options: Any) -> Any:
    """The same for `features_only=True`, which returns timm's wrapper."""
    torch.manual_seed(0)
    model = foveal.create_model(name, **{"num_classes": 10, **SHALLOW[name], **options})
    stir(model)
    return model.eval()


def golden_weights(model: torch.nn.Module) -> None:
    """Give every parameter and statistic its golden value: a function of its name and shape."""
    with torch.no_grad():
        for key, value in model.state_dict().items():
            # Layer scales go by another name here than in the official networks.
            name = "gamma" if "gamma" in key else key
            value.copy_(torch.from_numpy(weight(name, tuple(value.shape))))


def stir(model: torch.nn.Module) -> None:
    """Draw every parameter that starts out constant."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.device.type != "meta" and parameter.min() == parameter.max():
                parameter.add_(torch.randn_like(parameter) * 0.1)
                parameter.mul_(1 if parameter.abs().mean() > 0.01 else 100)
