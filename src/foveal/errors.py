"""Errors a person can act on: what was given, what is allowed, how to fix it."""

from collections.abc import Iterable
from difflib import get_close_matches


class FovealError(ValueError):
    """A problem with the input: on the command line one sentence and exit code 2."""


class OptionError(FovealError, TypeError):
    """An option that does not exist, or a value an option does not allow."""


class CheckpointError(FovealError):
    """A checkpoint file that cannot be read, is not trusted, or does not fit the model."""


class BackendError(FovealError, RuntimeError):
    """A backend that was asked for by name cannot run an operator, and why."""


class MissingExtraError(FovealError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str):
        super().__init__(
            f"This needs {package}, which is not installed: pip install 'foveal[{extra}]'."
        )


def first_line(error: BaseException) -> str:
    """What another library's error says, without the pages that follow; else its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def closest(word: str, known: Iterable[str], limit: int = 3) -> str:
    """The known words nearest to `word`, as ' Did you mean …?', or the empty string."""
    near = get_close_matches(word, list(known), n=limit, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
