"""Exporting: trace, write, run at several sizes, and only then put the file where it belongs."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from foveal.errors import FovealError, OptionError, closest
from foveal.files import require_writable
from foveal.tools.export.check import TOLERANCE, SizeCheck, check_sizes, sizes_to_check
from foveal.tools.export.formats import FORMATS, Format, move_beside
from foveal.tools.export.program import program_of
from foveal.tools.export.subject import ExportOptions, subject_of
from foveal.tools.trained import TrainedModel

OnDone = Callable[[int, int], None]


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        files: the file, then what belongs to it and lies beside it.
        megabytes: of all of them.
        checks: how far it is from the network, size by size.
        sizes: that it takes, in words.
    """

    files: tuple[Path, ...]
    megabytes: float
    checks: tuple[SizeCheck, ...]
    sizes: str

    @property
    def worst_error(self) -> float:
        """The largest difference of any size, over the largest output."""
        return max(check.error for check in self.checks)


def export_model(
    trained: TrainedModel,
    output: str | os.PathLike[str],
    format: str = "onnx",
    options: ExportOptions | None = None,
    on_done: OnDone = lambda *_: None,
) -> Export:
    """A trained model as a file that runs elsewhere, equal to it at several sizes.

    Args:
        trained: the model, on the CPU.
        output: the file.
        format: one of FORMATS.
        options: what the file is to do, by default ExportOptions().
        on_done: told how many of how many steps are done.

    Raises:
        FovealError: the format does not exist or its package is not installed, the network cannot
            be exported, or the file does not compute what the network computes; then there is
            no file.
    """
    chosen, target = checked_format(format, output), Path(output)
    require_writable(target)
    wanted = options or ExportOptions()
    subject = subject_of(trained, replace(wanted, bounded=chosen.is_bounded and wanted.dynamic))
    steps = 2 + len(sizes_to_check(subject))
    program = program_of(subject)
    on_done(1, steps)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", dir=target.parent) as folder:
        file = Path(folder) / target.name
        chosen.write(program, subject, file)
        on_done(2, steps)
        done = iter(range(3, steps + 1))
        checks = check_sizes(subject, chosen.open(file), lambda: on_done(next(done), steps))
        _require_equal(checks, trained.card.model, format)
        files = move_beside(file, target)
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    return Export(tuple(files), megabytes, checks, subject.options.sizes)


def checked_format(format: str, output: str | os.PathLike[str]) -> Format:
    """The format of that name, if the file is named as its files are.

    Raises:
        OptionError: there is no such format, or the file has another suffix.
    """
    if format not in FORMATS:
        raise OptionError(
            f"There is no format {format!r}.{closest(format, FORMATS)} "
            f"It is one of {', '.join(FORMATS)}."
        )
    name, suffix = Path(output).name, FORMATS[format].suffix
    if Path(output).suffix != suffix:
        raise OptionError(f"A file of {format} is named *{suffix}, got {name!r}.")
    return FORMATS[format]


def _require_equal(checks: tuple[SizeCheck, ...], model: str, format: str) -> None:
    wrong = [check for check in checks if not check.is_equal]
    if wrong:
        sizes = ", ".join(
            f"{check.error:.1e} at {check.shape[2]} × {check.shape[3]}" for check in wrong
        )
        raise FovealError(
            f"{model} as {format} does not compute what the network computes: {sizes} of the "
            f"largest output, where {TOLERANCE:.0e} is allowed; no file was written."
        )
