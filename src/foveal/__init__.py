"""Foveal: five vision backbones that look near in detail and far in outline."""

from foveal import mixers
from foveal.models.checkpoint import load_checkpoint
from foveal.models.factory import convert_state_dict, create_model, list_models
from foveal.tools.inference import prepare_for_inference

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "convert_state_dict",
    "create_model",
    "list_models",
    "load_checkpoint",
    "mixers",
    "prepare_for_inference",
]
