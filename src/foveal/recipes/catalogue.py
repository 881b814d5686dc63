"""All recipes by name, for all networks by name."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from foveal.errors import OptionError, closest
from foveal.models.ablations import ABLATIONS
from foveal.models.scaled import SCALED, size_options
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


def configure(recipe: str, network: str, image_size: int | None = None) -> ClassificationConfig:
    """A recipe for a network.

    Args:
        recipe: its name.
        network: a model's name, one of `foveal.models.scaled.SCALED`, or TABLE/ROW of
            `foveal.models.ablations.ABLATIONS`.
        image_size: side in pixels, in place of the recipe's.

    Raises:
        OptionError: no such recipe, table or row; the message has the nearest.
    """
    model, options = find_network(network)
    config = find_recipe(recipe)(model)
    side = image_size or config.image_size
    # Position tables are made for the images that are trained on, where nothing else was before.
    calibrated = {} if side is None or recipe.startswith("finetune") else size_options(model, side)
    return replace(config, model=model, options={**config.options, **calibrated, **options})


def find_network(name: str) -> tuple[str, Mapping[str, Any]]:
    """Model and options behind a network's name."""
    if name in SCALED:
        return SCALED[name].model, SCALED[name].options
    table, slash, row = name.partition("/")
    if not slash:
        return name, {}
    if table not in ABLATIONS:
        raise OptionError(
            f"There is no component table {table!r}.{closest(table, ABLATIONS)} There are "
            f"{', '.join(ABLATIONS)}."
        )
    rows = ABLATIONS[table]
    if row not in rows:
        raise OptionError(
            f"The table {table} has no row {row!r}.{closest(row, rows)} It has {', '.join(rows)}."
        )
    return rows[row].model, rows[row].options
