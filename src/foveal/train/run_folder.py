"""The folder a run writes: what is in it, and whether it may be written."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from foveal.errors import FovealError
from foveal.files import try_writing, write_text


class RunFolder:
    """`last.safetensors`, `best.safetensors`, `metrics.jsonl`, `config.yaml` and `state/`."""

    def __init__(self, root: str | os.PathLike[str]):
        self.root = Path(root)
        self.last = self.root / "last.safetensors"
        self.best = self.root / "best.safetensors"
        self.metrics = self.root / "metrics.jsonl"
        self.config = self.root / "config.yaml"
        self.states = self.root / "state"
        self.tensorboard = self.root / "tensorboard"

    def require_usable(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """See whether the folder may be used, before any work is done; leaves nothing behind.

        Args:
            resume: an earlier run in it is to go on.
            overwrite: an earlier run in it is to be replaced; `clear` removes it.

        Raises:
            FovealError: the folder holds files and neither is asked for, or cannot be written.
        """
        if resume and overwrite:
            raise FovealError("--resume and --overwrite exclude each other; give one of them.")
        self._require_writable()
        used = self.root.is_dir() and any(self.root.iterdir())
        if used and not (resume or overwrite):
            raise FovealError(
                f"The output folder {self.root} is in use; go on with --resume, replace the run "
                "in it with --overwrite, or choose another."
            )

    def clear(self) -> None:
        """Remove what a run wrote, and nothing else."""
        self.clear_results()
        self.config.unlink(missing_ok=True)

    def clear_results(self) -> None:
        """Remove what a run wrote, but for its configuration."""
        for path in (self.last, self.best, self.metrics):
            path.unlink(missing_ok=True)
        for folder in (self.states, self.tensorboard):
            shutil.rmtree(folder, ignore_errors=True)

    def latest_state(self) -> Path | None:
        """The newest whole state, or None."""
        whole = sorted(self.states.glob("step_*")) if self.states.is_dir() else []
        return whole[-1] if whole else None

    def state_at(self, step: int) -> Path:
        """Where the state after `step` steps is kept."""
        return self.states / f"step_{step:09d}"

    def publish_state(self, partial: Path, step: int, keep: int) -> None:
        """Give a state just written its name, so that a crash leaves the old one or the new."""
        target = self.state_at(step)
        replaced = self.states / "replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
        shutil.rmtree(replaced, ignore_errors=True)
        for older in sorted(self.states.glob("step_*"))[:-keep]:
            shutil.rmtree(older)

    def checkpoint(self) -> Path | None:
        """The best weights, else the last, else None."""
        return next((path for path in (self.best, self.last) if path.exists()), None)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.yaml."""
        write_text(self.config, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))

    def log(self, **record: Any) -> None:
        """Append one line to metrics.jsonl."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise FovealError(
                f"Cannot write {self.metrics}: {error.strerror}; make room or choose another one."
            ) from error

    def forget_after(self, step: int) -> None:
        """Drop the lines of steps after `step`, which a resumed run takes again."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [line for line in lines if _step_of(line) <= step]
        write_text(self.metrics, "".join(line + "\n" for line in kept))

    def _require_writable(self) -> None:
        try:
            try_writing(self.root)
        except OSError as error:
            raise FovealError(
                f"Cannot write to the output folder {self.root}: {error.strerror}; "
                "choose a folder that can be written to."
            ) from error


def _step_of(line: str) -> float:
    """The step of a line of metrics.jsonl; infinite for a line that a crash cut short."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, LookupError, TypeError):
        return float("inf")
