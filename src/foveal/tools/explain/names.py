"""What things of the same name are called."""

import os
from collections.abc import Sequence
from pathlib import Path


def numbered(names: Sequence[str], form: str = "{} ({})") -> list[str]:
    """Names that recur get a number from the second on that makes them no other's.

    Args:
        names: any.
        form: of a name and its number.
    """
    taken, found = set(names), []
    for name in names:
        title, number = name, 1
        while title in found or (number > 1 and title in taken):
            number += 1
            title = form.format(name, number)
        found.append(title)
    return found


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as much of the folders before them as tells them apart; then numbers."""
    names = []
    for path in paths:
        others = [other.parts for other in paths if other != path]
        count = 1
        while count < len(path.parts) and any(o[-count:] == path.parts[-count:] for o in others):
            count += 1
        names.append(printable(str(Path(*path.parts[-count:]))))
    return numbered(names)


def printable(name: str) -> str:
    """A file's name as text; what is not UTF-8 becomes a question mark."""
    return os.fsencode(name).decode("utf-8", "replace")
