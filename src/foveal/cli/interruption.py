"""Ctrl-C, which ends a command wherever it is met, and is told of once."""

import os
import signal
import sys
from _thread import interrupt_main
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer, current_thread, main_thread
from traceback import clear_frames
from types import FrameType
from typing import Any

# Seconds after which an interruption that was lost comes again.
_AGAIN = 0.05


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt in this process alone, and is never lost.

    Python drops an exception that is raised while an object is put away, such as a loader at the
    end of an epoch; it is raised again a moment later.
    """
    before = signal.getsignal(signal.SIGINT)
    # A shell may have had the signal ignored, as for a command in the background.
    if not callable(before) or current_thread() is not main_thread():
        yield
        return
    own, show = os.getpid(), sys.unraisablehook

    def interrupt(number: int, frame: FrameType | None) -> None:
        # Workers that were just forked inherit this, and end with the process that they serve.
        if os.getpid() == own:
            raise KeyboardInterrupt

    def lost(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            show(unraisable)
        elif os.getpid() == own:
            again = Timer(_AGAIN, interrupt_main)
            again.daemon = True
            again.start()

    signal.signal(signal.SIGINT, interrupt)
    sys.unraisablehook = lost
    try:
        yield
    except KeyboardInterrupt as stop:
        # What is half made complains as it is put away, which is done here, unheard.
        sys.unraisablehook = lambda _: None
        for error in (stop, stop.__context__):
            clear_frames(error and error.__traceback__)
        raise
    finally:
        sys.unraisablehook = show
        signal.signal(signal.SIGINT, before)
