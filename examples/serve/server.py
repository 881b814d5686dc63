"""uvicorn with two things that it lacks: a deadline for heads, and an end that loses no request."""

import asyncio
import signal
import socket
import sys
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from foveal.errors import FovealError

from .limits import Limits

_CLOSE = (b"connection", b"close")


class DeadlineProtocol(H11Protocol):
    """Closes connections that do not finish the head of a request in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Time runs from here to the first request's head."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Time runs from the first byte of a head to its last."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is to be waited for any more."""
        super().connection_lost(exc)
        self._forget()

    def _watch(self) -> None:
        # Idle is a connection between two requests, or within the head of one.
        if self.conn.their_state is not h11.IDLE or self.transport.is_closing():
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class Server(uvicorn.Server):
    """Says where it listens, and answers what was sent before it ends."""

    def __init__(self, app: FastAPI, limits: Limits, *, host: str, port: int):
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=DeadlineProtocol,
                ws="none",
                access_log=False,
                log_level="warning",
                server_header=False,
                timeout_keep_alive=limits.head_seconds,  # pyright: ignore[reportArgumentType]
            )
        )
        self.last_call = limits.last_call
        self.url = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(f"Serving on {self.url}; Ctrl-C ends it.", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more connections, tell clients that theirs ends, and answer what they sent."""
        for server in self.servers:
            server.close()
        state = self.server_state
        state.default_headers = [*state.default_headers, _CLOSE]
        for connection in state.connections:
            if isinstance(connection, DeadlineProtocol) and connection.cycle is not None:
                connection.cycle.default_headers = state.default_headers
        await asyncio.sleep(self.last_call)
        await super().shutdown(sockets)


def run(app: FastAPI, limits: Limits, *, host: str, port: int) -> None:
    """Serve until SIGTERM or Ctrl-C, then return.

    Raises:
        FovealError: the address cannot be used.
    """
    _require_free(host, port)
    # uvicorn raises the signal that ended it once more when all is done.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    Server(app, limits, host=host, port=port).run()


def _require_free(host: str, port: int) -> None:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family):
            pass
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FovealError(
            f"Cannot serve on port {port} of {host}: {reason}; choose another port, or 0 for any "
            "that is free."
        ) from error
