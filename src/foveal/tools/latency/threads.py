"""As many threads as were asked for, each kept to processors of its own."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_TASKS = Path("/proc/self/task")


def default_threads() -> int:
    """As in the EfficientMod paper four, or as many processors as this process may use."""
    return min(4, len(_allowed()))


@contextmanager
def pinned_threads(count: int) -> Iterator[tuple[int, ...]]:
    """Inside, PyTorch computes with `count` threads and the process has as many processors.

    Yields:
        The processors, of different cores as far as there are; none where the system cannot pin.
    """
    threads, allowed = torch.get_num_threads(), _allowed()
    chosen = tuple(_cores_first(allowed)[:count])
    torch.set_num_threads(count)
    try:
        yield chosen if _pin(chosen) else ()
    finally:
        torch.set_num_threads(threads)
        _pin(allowed)


def _allowed() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _pin(processors: Sequence[int]) -> bool:
    """Keep all threads of this process to these; those that they start will inherit it."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    tasks = [int(task.name) for task in _TASKS.iterdir()] if _TASKS.exists() else [0]
    for task in tasks:
        # A thread may have ended meanwhile.
        with suppress(ProcessLookupError):
            os.sched_setaffinity(task, processors)
    return True


def _cores_first(processors: Sequence[int]) -> list[int]:
    """One processor of every core before the second of any: siblings share what computes."""
    seen: set[str] = set()
    firsts, others = [], []
    for processor in processors:
        core = _siblings(processor)
        (others if core in seen else firsts).append(processor)
        seen.add(core)
    return firsts + others


def _siblings(processor: int) -> str:
    topology = f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list"
    try:
        return Path(topology).read_text(encoding="ascii").strip()
    except OSError:
        return str(processor)
