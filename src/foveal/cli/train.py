"""`foveal train`: a model on a user's images, by a recipe."""

from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import note, skipped_note
from foveal.cli.runs import add_run_arguments, fit, given_flags, require_run, tell_end
from foveal.cli.settings import add_settings, flat, nested, read_file, settings_of
from foveal.data.balance import class_balance
from foveal.recipes.catalogue import RECIPES, configure, find_network, find_recipe
from foveal.recipes.classification import ClassificationRun
from foveal.recipes.config import ClassificationConfig, from_dict

SUMMARY = "train a network on images, by a recipe"

# Short names; every other setting goes by its last word, too, where no other has the same.
ALIASES = {"--data": "--data.path", "--option": "--options"}

USAGE = "foveal train --model NAME --data PATH --output DIR [--recipe NAME] [--SETTING VALUE ...]"

DETAILS = (
    "Settings come from the recipe, then from --config FILE, then from flags. A setting goes by "
    "its last word where no other has the same: --epochs, --lr, --batch-size, --mixup. --data is "
    f"--data.path, --option KEY=VALUE is --options.KEY VALUE. Recipes: {', '.join(RECIPES)}."
)

SETTINGS = [key for key, *_ in settings_of(ClassificationConfig)]


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    parser.usage, parser.epilog = USAGE, DETAILS
    add_run_arguments(parser)
    add_settings(parser, ClassificationConfig)


def prepare(parser: ArgumentParser, argv: Sequence[str]) -> list[str]:
    """Make the recipe's values and the file's the defaults that the flags override.

    Returns:
        the command line, with the model that the network's name stands for.
    """
    chosen = given_flags(argv)
    settings = read_file(chosen["config"], SETTINGS) if "config" in chosen else {}
    chosen = {**settings, **chosen}
    for key in ("recipe", "model"):
        if not isinstance(chosen.get(key) or "", str) or chosen.get(key) == "":
            raise UsageError(f"{key} is a name, got {chosen[key]!r}; see foveal train --help.")
    network = chosen.get("model")
    trained = _true(chosen.get("pretrained")) or chosen.get("checkpoint") is not None
    name = chosen.get("recipe") or ("finetune" if trained else "folder")
    find_recipe(name)
    if network is None:
        return list(argv)
    side = str(chosen.get("image_size") or "")
    config = configure(name, network, int(side) if side.isdecimal() else None)
    defaults = flat(config.to_dict(), SETTINGS)
    if "options" in settings and find_network(network)[1]:
        # A row of a table or a scaled network is its options, those of the file are beside them.
        settings["options"] = {**(settings["options"] or {}), **find_network(network)[1]}
    parser.set_defaults({**defaults, **settings, "recipe": name})
    return [*argv, f"--model={config.model}"]


def run(options: Namespace) -> None:
    """Train, and say where the results are."""
    given = options.as_dict()  # pyright: ignore[reportAttributeAccessIssue]
    if not given["model"]:
        raise UsageError("foveal train needs --model; see foveal models and foveal train --help.")
    values = {key: value for key, value in flat(given, SETTINGS).items() if key in SETTINGS}
    config = from_dict(ClassificationConfig, nested(values))
    if options.print_config:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True), end="")
        return
    if config.data.path is None:
        raise UsageError("foveal train needs --data; see foveal train --help.")
    require_run(options, config)
    run_ = ClassificationRun(
        config, options.output, resume=options.resume, overwrite=options.overwrite
    )
    describe(run_)
    result = fit(run_)
    best, then = f"best top-1 {result.best_score:.2f} %", "foveal predict IMAGE --checkpoint"
    tell_end(run_, result, best, f"{then} {options.output}")


def describe(run_: ClassificationRun) -> None:
    """Say what will be trained on what, and on how many processes."""
    if not run_.is_main:
        return
    data = run_.data
    skipped_note(data.skipped)
    if data.ignored:
        note(f"Passed over {data.ignored} files that have no image's extension.")
    for text in run_.notes:
        note(text)
    note(
        f"{run_.config.model} by the recipe {run_.config.recipe!r} on {len(data.train)} images of "
        f"{len(data.classes)} classes from {data.found}, {len(data.val)} more to judge by, at "
        f"{run_.preprocessing.image_size} pixels."
    )
    if warning := class_balance(data.train.labels, data.classes).warning:
        note(warning)


def _true(value: Any) -> bool:
    return str(value).lower() == "true"
