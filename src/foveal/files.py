"""Writing files so that a reader never sees half of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EISDIR
from pathlib import Path

from foveal.errors import FovealError


@contextmanager
def atomic_path(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `target` that takes its name once the block ends without an error.

    Raises:
        FovealError: the folder cannot be made or written to, or the disk is full.
    """
    target = Path(target)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{target.stem}.", suffix=target.suffix, dir=target.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        # mkstemp makes the file private to its owner; a result is as readable as any other file.
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        raise _cannot_write(target, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def require_writable(target: str | os.PathLike[str]) -> None:
    """Raise now what would keep a file from being written later; leaves nothing behind.

    Raises:
        FovealError: the file is a folder, or its folder cannot be made or written to.
    """
    target = Path(target)
    try:
        if target.is_dir():
            raise IsADirectoryError(EISDIR, "it is a folder")
        try_writing(target.absolute().parent)
    except OSError as error:
        raise _cannot_write(target, error) from error


def try_writing(folder: Path) -> None:
    """Raise an OSError if no file can be made in a folder, or in the nearest that is there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


def _cannot_write(target: Path, error: OSError) -> FovealError:
    reason = error.strerror or error
    hint = "name a file" if target.is_dir() else "choose a folder that can be written to"
    return FovealError(f"Cannot write {target}: {reason}; {hint}.")


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
