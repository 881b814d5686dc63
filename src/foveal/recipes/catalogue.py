"""All recipes by name."""

from collections.abc import Callable

from foveal.errors import OptionError, closest
from foveal.recipes.config import ClassificationConfig
from foveal.recipes.imagenet import distill, finetune_384, imagenet
from foveal.recipes.own_images import finetune, folder, small

RECIPES: dict[str, Callable[[str], ClassificationConfig]] = {
    "folder": folder,
    "finetune": finetune,
    "small": small,
    "imagenet": imagenet,
    "finetune_384": finetune_384,
    "distill": distill,
}


def find_recipe(name: str) -> Callable[[str], ClassificationConfig]:
    """The recipe of that name.

    Raises:
        OptionError: there is none; the message has the nearest.
    """
    if name not in RECIPES:
        raise OptionError(
            f"There is no recipe {name!r}.{closest(name, RECIPES)} There are {', '.join(RECIPES)}."
        )
    return RECIPES[name]
