"""Parts of a network that keep their weights, by the groups that layer-wise decay knows."""

from typing import Any

from timm.models import group_parameters
from torch import nn

from foveal.errors import OptionError


def freeze(model: nn.Module, frozen_stages: int = 0, *, head_only: bool = False) -> list[nn.Module]:
    """Take the gradient from the stem and the first stages, or from all but the classifier.

    Args:
        model: with timm's `group_matcher` and `get_classifier`.
        frozen_stages: how many stages, the stem with them; 0 for none of it.
        head_only: train the classifier alone.

    Returns:
        Modules to be kept in eval mode, so that their norms keep their statistics.

    Raises:
        OptionError: the model has fewer stages, or no groups.
    """
    if not (frozen_stages or head_only):
        return []
    parts: Any = model
    if head_only:
        trained = {id(p) for p in parts.get_classifier().parameters()}
        if not trained:
            raise OptionError("The network has no classifier that could be trained alone.")
        names = [name for name, p in model.named_parameters() if id(p) not in trained]
    else:
        names = _first_groups(parts, frozen_stages)
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return [module for module in model.modules() if _is_frozen(module)]


def freeze_norms(model: nn.Module) -> list[nn.Module]:
    """Take the gradient from every norm of a network.

    Returns:
        The norms, to be kept in eval mode, so that they keep their statistics.
    """
    norms = [module for module in model.modules() if _is_norm(module)]
    for norm in norms:
        for parameter in norm.parameters():
            parameter.requires_grad_(False)
    return norms


def _is_norm(module: nn.Module) -> bool:
    """Whether a module, PyTorch's or timm's, normalises and does nothing else of weight."""
    return isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)) or (
        "norm" in type(module).__name__.lower() and not list(module.children())
    )


def _first_groups(model: Any, frozen_stages: int) -> list[str]:
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise OptionError(f"{type(model).__name__} does not say what its stages are.")
    groups: Any = group_parameters(model, matcher(coarse=True), reverse=True)
    # Group 0 is the stem; the last is the head, and what stands with it.
    stages = max(groups.values()) - 1
    if not 1 <= frozen_stages <= stages:
        raise OptionError(f"frozen_stages is 0 to {stages} for this network, got {frozen_stages}.")
    return [name for name, group in groups.items() if group <= frozen_stages]


def _is_frozen(module: nn.Module) -> bool:
    """Whether it has parameters, none of which is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)
