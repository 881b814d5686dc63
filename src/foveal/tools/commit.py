"""Which commit of Foveal this is."""

import subprocess
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


@cache
def commit() -> str | None:
    """The commit, with a word where files differ from it; None outside of a clone."""

    def git(*arguments: str) -> str:
        run = ["git", "-C", str(_PACKAGE), *arguments]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # An installed package may lie inside of somebody else's repository.
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
