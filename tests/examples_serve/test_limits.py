"""Clients that send too much, too slowly, too many at a time, or nothing to the end."""

import json
import select
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from tests.examples_serve.servers import (
    Gated,
    Running,
    gated_model,
    photo,
    serving,
    small_model,
    until,
)

HEAD = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Type: image/jpeg\r\n"


@contextmanager
def connected(server: Running, data: bytes) -> Iterator[socket.socket]:
    """A connection on which this was sent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(data)
        yield connection


def answer_on(connection: socket.socket) -> tuple[int, dict[str, str]]:
    """Status and body; the server ends the connection."""
    received = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), json.loads(body)


def head_of(length: int) -> bytes:
    """Of a request whose body has so many bytes."""
    return HEAD + b"Content-Length: %d\r\n\r\n" % length


def test_a_large_body_is_refused_by_its_announcement(server: Running) -> None:
    with connected(server, head_of(10**12)) as connection:
        status, body = answer_on(connection)
    assert status == 413 and "1,000,000,000,000 bytes" in body["error"]


def test_a_body_without_length_is_refused_while_it_is_read(server: Running) -> None:
    chunk = b"10000\r\n" + bytes(2**16) + b"\r\n"
    sent = 0
    with connected(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
        # It has no end: the answer comes before.
        while not select.select([connection], [], [], 0)[0]:
            connection.sendall(chunk)
            sent += len(chunk)
            assert sent < 2**28, "the server reads on and on"
            time.sleep(0.001)
        status, _ = answer_on(connection)
    assert status == 413
    assert server.in_use("upload_bytes") == server.in_use("uploads") == 0


def test_slow_bodies_get_408_and_hold_up_nobody() -> None:
    data, slow = photo(), []
    with serving(small_model(), body_seconds=3.0) as server:
        # More of them than there are threads of any kind.
        for _ in range(40):
            slow.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
            slow[-1].sendall(head_of(len(data)) + data[:100])
        until(lambda: server.in_use("uploads") == 40)
        assert server.in_use("upload_bytes") == 4000
        assert server.predict(data).status_code == 200
        assert server.in_use("uploads") == 40, "it waited for the others"
        for connection in slow:
            with connection:
                status, body = answer_on(connection)
            assert status == 408 and "After 3 s, 100 bytes" in body["error"]
        assert server.in_use("uploads") == server.in_use("upload_bytes") == 0


def test_a_trickle_does_not_extend_the_deadline(server: Running) -> None:
    start = time.monotonic()
    with connected(server, head_of(1000)) as connection:
        while not select.select([connection], [], [], 0.05)[0]:
            connection.sendall(b"x")
            assert time.monotonic() - start < 10, "there is no deadline"
        assert answer_on(connection)[0] == 408


@pytest.mark.parametrize("sent", [b"", HEAD, b"GET /health HTTP/1.1\r\nHost: here\r\n\r\nGET /he"])
def test_a_slow_head_ends_the_connection(server: Running, sent: bytes) -> None:
    start = time.monotonic()
    with connected(server, sent) as connection:
        while connection.recv(65536):
            pass
    assert 0.5 < time.monotonic() - start < 10


def test_clients_that_go_away_leave_nothing_behind(server: Running) -> None:
    for _ in range(5):
        with connected(server, head_of(1000) + b"half"):
            until(lambda: server.in_use("uploads") == 1)
        until(lambda: server.in_use("uploads") == 0)
    assert server.in_use("upload_bytes") == server.in_use("queue") == 0
    assert server.predict(photo()).status_code == 200


def test_a_full_queue_is_told_at_once() -> None:
    with (
        serving(gated_model(), max_queue=3, max_batch=1) as server,
        ThreadPoolExecutor(3) as pool,
    ):
        Gated.gate.clear()
        accepted = [pool.submit(server.predict, photo(number)) for number in range(3)]
        until(lambda: server.in_use("queue") == 3)
        refused = server.predict(photo())
        assert refused.status_code == 503 and refused.headers["Retry-After"] == "1"
        assert "no more than 3" in refused.json()["error"]
        assert server.client.get("/health").status_code == 200
        Gated.gate.set()
        assert [answer.result().status_code for answer in accepted] == [200, 200, 200]
        assert server.predict(photo()).status_code == 200


def test_uploads_are_bounded_in_number_and_in_bytes() -> None:
    with serving(small_model(), max_uploads=2, max_upload_bytes=5000) as server:
        with (
            connected(server, head_of(8000) + bytes(4000)),
            connected(server, head_of(8000)) as second,
        ):
            until(lambda: server.in_use("uploads") == 2 and server.in_use("upload_bytes") == 4000)
            refused = server.predict(photo())
            assert refused.status_code == 503 and "too many requests" in refused.json()["error"]
            second.sendall(bytes(2000))
            status, body = answer_on(second)
            assert status == 503 and "too many bytes of uploads" in body["error"]
            assert server.in_use("upload_bytes") == 4000
        until(lambda: server.in_use("uploads") == server.in_use("upload_bytes") == 0)


def test_a_refusal_reaches_a_client_that_sends_all_before_it_listens(server: Running) -> None:
    # Several times of what the buffers of a connection hold.
    number = 20_000_000
    with connected(server, head_of(number) + bytes(number)) as connection:
        assert answer_on(connection)[0] == 413
