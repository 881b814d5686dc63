"""The live server: what it answers, what it refuses, and what the page makes of it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import pytest

from foveal.errors import FovealError
from foveal.tools.explain.attention import QueryAttention
from foveal.tools.report.server import ExplanationServer, serve
from tests.tools import explanations as made
from tests.tools.pages import READ, READY, STAGE_1, decoded, label, panel, pixels, visited

ASKED = {
    "image": 0,
    "model": 1,
    "path": "stages.0.blocks.1.mixer",
    "title": "attention",
    "y": 0.99,
    "x": 0.01,
}


def answer(image: int, model: int, path: str, title: str, y: float, x: float) -> QueryAttention:
    """As of the stored queries, but anywhere."""
    if title == "attention":
        return made.pooled_and_window(min(y, 0.999), min(x, 0.999))
    return made.sampled(y, x)


@contextmanager
def running(query: Any = answer) -> Iterator[ExplanationServer]:
    with ExplanationServer(made.explanation(1), query) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[ExplanationServer]:
    """A server of one image."""
    with running() as server:
        yield server


def asked(
    server: ExplanationServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.request(
        method, path, headers={name.replace("_", "-"): h for name, h in headers.items()}
    )
    reply = connection.getresponse()
    found = reply.status, reply.read(), dict(reply.getheaders())
    connection.close()
    return found


def test_the_page_is_live_and_nobody_frames_it(server: ExplanationServer):
    status, body, headers = asked(server, "/")
    assert status == 200
    assert b"connect-src 'self'" in body
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert server.server_address[0] == "127.0.0.1"


def test_a_query_is_answered_by_the_given_function(server: ExplanationServer):
    status, body, _ = asked(server, f"/query?{urlencode(ASKED)}")
    assert status == 200
    query = decoded(body)[0]["query"]
    assert query["query"] == [13, 0]
    assert query["size"] == [14, 18]


@pytest.mark.parametrize(
    "change",
    [
        {"image": 1},
        {"model": 0},
        {"model": -1},
        {"image": "one"},
        {"path": "stages.9"},
        {"title": "gates"},
        {"y": 1.5},
        {"x": "nan"},
        {"x": ""},
        {"more": 1},
    ],
    ids=str,
)
def test_wrong_queries_are_told_so(server: ExplanationServer, change: dict[str, Any]):
    status, body, headers = asked(server, f"/query?{urlencode({**ASKED, **change})}")
    assert status == 400
    assert body.endswith(b".")
    assert headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/query", "/query?", "/query?image=0", "/query?=&=&&"])
def test_half_queries_are_told_so(server: ExplanationServer, path: str):
    assert asked(server, path)[0] == 400


@pytest.mark.parametrize("path", ["/page.html", "/..", "/../../etc/passwd", "/favicon.ico"])
def test_there_are_no_files(server: ExplanationServer, path: str):
    assert asked(server, path)[0] == 404


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "WHATEVER"])
def test_nothing_but_get(server: ExplanationServer, method: str):
    status, _, headers = asked(server, "/", method)
    assert status == 405
    assert headers["Allow"] == "GET"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "", "localhost."])
def test_other_names_of_the_server_are_refused(server: ExplanationServer, host: str):
    assert asked(server, "/", Host=host)[0] == 421


def test_pages_of_others_are_refused(server: ExplanationServer):
    path = f"/query?{urlencode(ASKED)}"
    assert asked(server, path, Sec_Fetch_Site="cross-site")[0] == 403
    assert asked(server, path, Sec_Fetch_Site="same-origin")[0] == 200
    assert asked(server, path, Host=f"localhost:{server.server_port}")[0] == 200


def test_one_query_at_a_time_and_errors_do_not_end_it():
    at_once, most = [0], [0]

    def slow(*arguments: Any) -> QueryAttention:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        threading.Event().wait(0.05)
        at_once[0] -= 1
        if arguments[-1] == 0:
            raise RuntimeError("out of memory")
        return answer(*arguments)

    with running(slow) as server:
        found: list[int] = []
        paths = [f"/query?{urlencode({**ASKED, 'x': x})}" for x in (0, 0.1, 0.2, 0.3)]
        threads = [
            threading.Thread(target=lambda p=path: found.append(asked(server, p)[0]))
            for path in paths
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == [200, 200, 200, 500]
        assert most == [1]


def test_a_port_in_use_is_told(server: ExplanationServer):
    for port in (server.server_port, 70000):
        with pytest.raises(FovealError, match="choose another port"):
            serve(made.explanation(1), answer, port=port)


def test_an_interruption_ends_it(monkeypatch: pytest.MonkeyPatch):
    def interrupted(self: ExplanationServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ExplanationServer, "serve_forever", interrupted)
    addresses: list[str] = []
    serve(made.explanation(1), answer, started=addresses.append)
    assert addresses[0].startswith("http://127.0.0.1:")


def test_a_click_asks_for_exactly_that_query_until_the_server_has_gone(browser: Any):
    with running() as server, visited(browser, server.url) as page:
        page.wait_for_selector(READY)
        attention = panel(page, STAGE_1, "transnext_micro")
        canvas = attention.locator("figure > canvas")
        canvas.scroll_into_view_if_needed()
        attention.get_by_text("Exactly this query").wait_for()
        before = pixels(canvas)
        box = canvas.bounding_box()
        canvas.click(position={"x": 0.01 * box["width"], "y": 0.99 * box["height"]})
        attention.get_by_text("row 14, column 1 of 14 × 18").wait_for()
        assert pixels(canvas) != before
        assert "Exactly this query, from the server." in label(canvas)
        # The window's outline is closed where the map ends.
        edge = canvas.evaluate(f"(canvas) => Array.from(({READ})(canvas, [0, 0.89, 1, 1]))")
        assert min(edge[:3]) > 240
        # In steps of the map's own cells.
        canvas.focus()
        page.keyboard.press("ArrowUp")
        attention.get_by_text("row 13, column 1 of 14 × 18").wait_for()
        assert all(url.startswith((server.url, "data:")) for url in page.asked)
        assert page.complaints == []
        server.shutdown()
        server.server_close()
        canvas.click(position={"x": 0.55 * box["width"], "y": 0.55 * box["height"]})
        page.wait_for_selector("#message:not([hidden])")
        assert "does not answer any more" in page.locator("#message").inner_text()
        assert "Query at row 8, column 11 of 14 × 18" in label(canvas)
        asked_before = len(page.asked)
        canvas.click(position={"x": 5, "y": 5})
        assert "Query at row 2, column 2 of 14 × 18" in label(canvas)
        page.wait_for_timeout(400)
        assert len(page.asked) == asked_before


def test_only_what_is_seen_is_asked_for(browser: Any, server: ExplanationServer):
    with visited(browser, server.url, viewport={"width": 1300, "height": 300}) as page:
        page.wait_for_selector(READY)
        # Longer than the page waits before it asks.
        page.wait_for_timeout(400)
        assert not [url for url in page.asked if "query?" in url]
        attention = panel(page, STAGE_1, "transnext_micro")
        attention.locator("figure > canvas").scroll_into_view_if_needed()
        attention.get_by_text("Exactly this query").wait_for()
        assert all("stages.0" in url for url in page.asked if "query?" in url)


def test_a_refusal_is_told_and_the_stored_query_shown(browser: Any):
    def refuse(*arguments: Any) -> QueryAttention:
        raise FovealError("Not today.")

    with running(refuse) as server, visited(browser, server.url) as page:
        page.wait_for_selector(READY)
        attention = panel(page, STAGE_1, "transnext_micro")
        canvas = attention.locator("figure > canvas")
        canvas.scroll_into_view_if_needed()
        attention.get_by_text("the server: Not today.").wait_for()
        assert "Query at row 8, column 11 of 14 × 18" in label(canvas)
        # Chromium's own word for the status, nothing else.
        assert all("status of 400" in complaint for complaint in page.complaints)


def test_json_of_the_page_says_that_it_is_live(server: ExplanationServer):
    text = server.page.decode().split('id="content">')[1].split("</script>")[0]
    assert json.loads(text)["live"] is True
