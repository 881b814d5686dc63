"""Serving on this machine alone."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from foveal.errors import FovealError

ADDRESS = "127.0.0.1"


@contextmanager
def taking_port(port: int) -> Iterator[None]:
    """Inside, a port that cannot be taken is a sentence.

    Raises:
        FovealError: it is taken, not allowed, or no port.
    """
    try:
        yield
    except (OSError, OverflowError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not from 0 to 65535"
        raise FovealError(
            f"Cannot serve on port {port} of {ADDRESS}: {reason}; choose another port, or 0 "
            "for any that is free."
        ) from error


def usable_port(port: int) -> int:
    """The port, or for 0 one that is free now.

    Raises:
        FovealError: it cannot be taken.
    """
    with taking_port(port), socket.socket() as probe:
        # As servers do, which may take again what one before them has just left.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((ADDRESS, port))
        return probe.getsockname()[1]
