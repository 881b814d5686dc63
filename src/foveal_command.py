"""The `foveal` command: until PyTorch is imported, Ctrl-C ends it with a word and no traceback.

It lies beside the package, as importing anything of the package imports PyTorch first.
"""

import os
import signal
import sys
from contextlib import suppress
from types import FrameType

INTERRUPTED = 130


def main() -> int:
    """Run the command line of this process; its exit code."""
    # A shell may have had the signal ignored, as for a command in the background.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    from foveal.cli.main import main as run

    code = run()
    if code == INTERRUPTED:
        # At its end Python waits for workers, which in mid-work would go on waiting for it.
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(code)
    return code


def _stop(number: int, frame: FrameType | None) -> None:
    """End at once, before and after the command's work: an exception might be swallowed."""
    os.write(2, b"Stopped.\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main())
