"""What all runs have in common: an output folder, a trainer, and going on with the same."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import yaml
from torch import nn

from foveal.errors import FovealError
from foveal.train.config import TrainConfig
from foveal.train.loop import Trainer, TrainResult
from foveal.train.processes import is_main_process
from foveal.train.run_folder import RunFolder
from foveal.train.task import Task


class RunConfig(Protocol):
    """What every run's configuration has."""

    @property
    def train(self) -> TrainConfig:
        """Length and optimisation."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for config.yaml."""
        ...


class Card(Protocol):
    """What travels with the weights."""

    def to_metadata(self) -> dict[str, Any]:
        """As plain values."""
        ...


Config = TypeVar("Config", bound=RunConfig)


class TrainingRun(ABC, Generic[Config]):
    """A run whose output folder, data and model have been found good; `fit` does the work.

    Args:
        config: what to do.
        output: folder for the results.
        resume: go on from what the folder holds; afresh where it holds nothing.
        overwrite: replace an earlier run.

    Attributes:
        model: is trained in place.
        task: loss and figures.
        held: parts of the model that stay in eval mode.
        notes: what a person should know before it starts, in sentences.

    Raises:
        FovealError: unusable output, or what `prepare` finds.
    """

    SAME: ClassVar[tuple[str, ...]]
    """Settings that may not change where a run is resumed, beside those of the data's order."""

    model: nn.Module
    task: Task
    held: Sequence[nn.Module]
    notes: list[str]

    def __init__(
        self,
        config: Config,
        output: str | os.PathLike[str],
        *,
        resume: bool = False,
        overwrite: bool = False,
    ):
        self.config = config
        self.resume = resume
        self.overwrite = overwrite
        self.folder = RunFolder(output)
        if is_main_process():
            self.folder.require_usable(resume=resume, overwrite=overwrite)
        if resume:
            require_same_run(self.folder, config, self.SAME)
        self.prepare()

    @abstractmethod
    def prepare(self) -> None:
        """Read the data, make model and task; raise a FovealError if anything does not fit."""

    @abstractmethod
    def loaders(self) -> tuple[Any, Any]:
        """This process's batches to train on, and to judge by."""

    @abstractmethod
    def card(self) -> Card:
        """What travels with the weights."""

    @property
    def is_main(self) -> bool:
        """Whether this process speaks for all of them."""
        return is_main_process()

    @property
    def goes_on(self) -> bool:
        """Whether there is a state to go on from, whose weights will replace all others."""
        return self.resume and self.folder.latest_state() is not None

    def fit(self, *, show_progress: bool = True) -> TrainResult:
        """Train, writing checkpoints, figures and configuration into the folder."""
        trainer = Trainer(
            self.model,
            self.task,
            self.loaders(),
            self.config.train,
            self.folder,
            metadata=self.card().to_metadata(),
            show_progress=show_progress,
            held=self.held,
        )
        # Not before everything is known to fit: what an earlier run wrote is worth keeping.
        if is_main_process():
            if self.overwrite:
                self.folder.clear()
            self.folder.write_config(self.config.to_dict())
        return trainer.fit(resume=self.resume)


def require_same_run(folder: RunFolder, config: RunConfig, keys: Sequence[str]) -> None:
    """Raise if a folder holds a run of something else than `config`, by the settings in `keys`."""
    if not folder.config.exists():
        return
    before, now = _settings_in(folder.config), config.to_dict()
    for key in keys:
        was = before.get(key, now[key])
        if key == "data" and isinstance(was, Mapping):
            # Another spelling of a path is no other data.
            same = {name: path for name, path in now[key].items() if _same_place(was, name, path)}
            was = {**was, **same}
        # Every option of the network counts, also one that is not given any more.
        if was != now[key] if key == "options" else _differs(was, now[key]):
            raise _another_run(folder, key, was, now[key])
    # They decide about the order of the images, and the seed about which are held out.
    for key in ("seed", "batch_size", "accumulate"):
        was = before.get("train", {}).get(key, now["train"][key])
        if was != now["train"][key]:
            raise _another_run(folder, key, was, now["train"][key])


def _another_run(folder: RunFolder, key: str, before: Any, now: Any) -> FovealError:
    return FovealError(
        f"The run in {folder.root} has {key} {before!r}, not {now!r}; "
        "resume with the same, or replace the run with --overwrite."
    )


def _settings_in(file: Path) -> Mapping[str, Any]:
    """What a run's config.yaml says."""
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        settings = None
    if not isinstance(settings, Mapping) or not isinstance(settings.get("train", {}), Mapping):
        raise FovealError(
            f"{file} is damaged, so it cannot be seen whether this is the same run; remove that "
            "file to --resume without looking, or replace the run with --overwrite."
        )
    return settings


def _same_place(before: Mapping[str, Any], name: str, path: Any) -> bool:
    """Whether a setting of the data, which may be a path, leads to the same place as before."""
    was = before.get(name)
    if not (isinstance(was, str) and isinstance(path, str)):
        return False
    return Path(was).resolve() == Path(path).resolve()


def _differs(before: Any, now: Any) -> bool:
    """Whether a setting is another one; what an earlier version did not know is no difference."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return any(_differs(before[key], now[key]) for key in before if key in now)
    return before != now
