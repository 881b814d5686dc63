"""`foveal train --task detection|segmentation`: a head on a backbone, by a recipe."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from foveal.cli.arguments import UsageError
from foveal.cli.console import note
from foveal.cli.runs import add_run_arguments, fit, given_flags, require_run, tell_end
from foveal.cli.settings import add_settings, flat, nested, read_file, settings_of
from foveal.recipes.config import from_dict
from foveal.recipes.dense import DenseRun
from foveal.recipes.dense_catalogue import DENSE_TASKS, DenseTask

_DATA = {
    "detection": "--data TRAIN.json --val-data VAL.json --images DIR",
    "segmentation": "--data DIR",
}


class DenseTrain:
    """The command for one task.

    Args:
        task: what is trained.
    """

    SUMMARY = "train a detector or segmenter, by a recipe"
    ALIASES: Mapping[str, str] = MappingProxyType(
        {"--data": "--data.path", "--option": "--options", "--head-option": "--head_options"}
    )

    def __init__(self, task: DenseTask):
        self.task = task
        self.settings = [key for key, *_ in settings_of(task.config)]

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The command's flags."""
        name, recipes = self.task.name, ", ".join(self.task.recipes)
        parser.usage = (
            f"foveal train --task {name} --head HEAD --model NAME {_DATA[name]} --output DIR "
            "[--recipe NAME] [--SETTING VALUE ...]"
        )
        parser.epilog = (
            "Settings come from the recipe, then from --config FILE, then from flags; a setting "
            f"goes by its last word where no other has the same. Heads: "
            f"{', '.join(self.task.heads)}. Recipes: {recipes}. --checkpoint box starts from the "
            "model in the box."
        )
        add_run_arguments(parser)
        add_settings(parser, self.task.config)

    def prepare(self, parser: ArgumentParser, argv: Sequence[str]) -> list[str]:
        """Make the recipe's values and the file's the defaults that the flags override."""
        chosen = given_flags(argv)
        settings = read_file(chosen["config"], self.settings) if "config" in chosen else {}
        chosen = {**settings, **chosen}
        for key in ("recipe", "model", "head"):
            if not isinstance(chosen.get(key) or "", str) or chosen.get(key) == "":
                raise UsageError(f"{key} is a name, got {chosen[key]!r}; see foveal train --help.")
        config = self.task.configure(
            chosen.get("recipe"), chosen.get("head") or "", chosen.get("model") or ""
        )
        defaults = flat(config.to_dict(), self.settings)
        parser.set_defaults({**defaults, **settings, "recipe": config.recipe})
        return list(argv)

    def run(self, options: Namespace) -> None:
        """Train, and say where the results are."""
        given: dict[str, Any] = options.as_dict()  # pyright: ignore[reportAttributeAccessIssue]
        heads = f"it is one of {', '.join(self.task.heads)}"
        for name, known in (("head", heads), ("model", "foveal models lists them")):
            if not given[name]:
                raise UsageError(f"foveal train --task {self.task.name} needs --{name}; {known}.")
        values = {k: v for k, v in flat(given, self.settings).items() if k in self.settings}
        config = from_dict(self.task.config, nested(values))
        if options.print_config:
            print(yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True), end="")
            return
        require_run(options, config)
        run_ = self.task.run(
            config, options.output, resume=options.resume, overwrite=options.overwrite
        )
        _describe(run_)
        result = fit(run_)
        best = f"best {self.task.score}: {result.best_score:.3f}"
        then = f"foveal predict IMAGE --task {self.task.name} --checkpoint"
        tell_end(run_, result, best, f"{then} {options.output} --output DIR")


def _describe(run_: DenseRun[Any]) -> None:
    """Say what will be trained on what, and what was left out."""
    if not run_.is_main:
        return
    for problems in run_.problems:
        if problems:
            note(str(problems))
    for text in run_.notes:
        note(text)
    config = run_.config
    note(f"{config.head} on {config.model} by the recipe {config.recipe!r}, with {run_.amounts}.")


TRAIN = {name: DenseTrain(task) for name, task in DENSE_TASKS.items()}
