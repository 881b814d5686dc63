"""The page from a server of this machine alone, which answers any query, not only stored ones."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qs, urlsplit

from foveal.errors import FovealError
from foveal.tools.explain.attention import QueryAttention
from foveal.tools.explain.explanation import Explanation
from foveal.tools.explain.views import QueryView
from foveal.tools.loopback import ADDRESS, taking_port
from foveal.tools.report.encoding import query_packet
from foveal.tools.report.explanation import explanation_page

# Index of the image and of the model, path of the mixer, title of the view, and the query's row
# and column as fractions of the image; the attention has the same heads as the view.
Query = Callable[[int, int, str, str, float, float], QueryAttention]


def serve(
    explanation: Explanation,
    query: Query,
    *,
    port: int = 0,
    started: Callable[[str], None] = print,
) -> None:
    """Serve the page until interrupted.

    Args:
        explanation: of the page.
        query: the attention of one query of a `QueryView`, such as `Explained.query`, which looks
            it up in what was recorded; called by one request at a time.
        port: of 127.0.0.1; 0 takes a free one.
        started: is told the page's address.

    Raises:
        FovealError: the port cannot be used.
    """
    with ExplanationServer(explanation, query, port=port) as server:
        started(server.url)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


@dataclass(frozen=True)
class _Asked:
    """A query that the page may ask for."""

    image: int
    model: int
    path: str
    title: str


class ExplanationServer(ThreadingHTTPServer):
    """Answers on 127.0.0.1: the page, and the attention of one query. Arguments as of `serve`."""

    daemon_threads = True

    def __init__(self, explanation: Explanation, query: Query, *, port: int = 0):
        with taking_port(port):
            super().__init__((ADDRESS, port), _Handler)
        self._query, self._known, self._lock = query, set(_queries(explanation)), Lock()
        self.page = explanation_page(explanation, live=True).encode()

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://{ADDRESS}:{self.server_port}/"

    @property
    def hosts(self) -> set[str]:
        """What browsers call this server; any other name was pointed here by someone else."""
        return {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost")}

    def answer(self, text: str) -> bytes:
        """The packet of the query of a URL.

        Raises:
            FovealError: there is no such query.
        """
        asked, y, x = _read(text)
        if asked not in self._known:
            raise FovealError("No such query: choose one of the page's attention views.")
        # Recorded readings answer without a network, but another function may not be for two at
        # a time.
        with self._lock:
            return query_packet(
                self._query(asked.image, asked.model, asked.path, asked.title, y, x)
            )


def _queries(explanation: Explanation) -> Iterator[_Asked]:
    for i, image in enumerate(explanation.images):
        for j, model in enumerate(image.models):
            for block in model.blocks:
                for view in block.views:
                    if isinstance(view, QueryView):
                        yield _Asked(i, j, block.path, view.title)


def _read(text: str) -> tuple[_Asked, float, float]:
    """The parts of "image=0&model=1&path=…&title=…&y=0.5&x=0.5"."""
    names = ("image", "model", "path", "title", "y", "x")
    try:
        fields = parse_qs(text, strict_parsing=True, max_num_fields=len(names))
        image, model, path, title, y, x = (fields.pop(name)[0] for name in names)
        place = float(y), float(x)
        asked = _Asked(int(image), int(model), path, title)
    except (KeyError, ValueError) as error:
        raise FovealError(f"A query has {', '.join(names)}, each once.") from error
    if not all(math.isfinite(part) and 0 <= part <= 1 for part in place):
        raise FovealError("y and x are fractions of the image, from 0 to 1.")
    return asked, *place


class _Handler(BaseHTTPRequestHandler):
    """GET of the page and of a query, for pages of this server."""

    server: ExplanationServer  # pyright: ignore[reportIncompatibleVariableOverride]
    # One that says nothing does not hold a thread for ever.
    timeout = 30

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"This server is not called so.")
        elif self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            self._send(HTTPStatus.FORBIDDEN, b"Only for the page of this server.")
        else:
            self._route()

    def _route(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/":
            self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        elif parts.path == "/query":
            self._answer(parts.query)
        else:
            self._send(HTTPStatus.NOT_FOUND, b"There is nothing here.")

    def _answer(self, text: str) -> None:
        try:
            packet = self.server.answer(text)
        except FovealError as error:
            self._send(HTTPStatus.BAD_REQUEST, str(error).encode())
        except RuntimeError as error:
            # Whatever the function met, such as too little memory: the next query may do well.
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, str(error).encode())
        else:
            self._send(HTTPStatus.OK, packet, "application/octet-stream")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Requests that are none; a method that is not there is the client's mistake."""
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code = HTTPStatus.METHOD_NOT_ALLOWED
        self.close_connection = True
        self._send(HTTPStatus(code), HTTPStatus(code).phrase.encode())

    def _send(
        self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8"
    ) -> None:
        # The page gives up queries that have been overtaken by the next.
        with suppress(ConnectionError):
            self.send_response(status)
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", "GET")
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            # As in the page; and no other page may show this one in a frame.
            self.send_header("Content-Security-Policy", "frame-ancestors 'none'")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: a line for every query would bury what the command says."""
