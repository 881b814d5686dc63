"""Requests share batches, are none the worse for it, and are answered to the last."""

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import torch
from examples.serve.__main__ import main
from examples.serve.batching import MicroBatcher
from examples.serve.limits import Limits

from foveal.data.images import EncodedImage
from foveal.tools.box import BOX
from foveal.tools.predict import predict_sources
from tests.examples_serve.servers import (
    JPEG,
    ROOT,
    Gated,
    Running,
    gated_model,
    photo,
    process,
    serving,
    small_model,
    until,
)


def test_images_that_wait_share_a_batch_and_get_their_own_answers() -> None:
    files = [photo(number) for number in range(9)]
    expected = [
        predict_sources(small_model(), [EncodedImage("one", file)], ["one"], top=7)[0]
        for file in files
    ]
    seen = {round(prediction.top.probability, 4) for prediction in expected}
    assert len(seen) > 7, "images that look alike would hide a swap"
    with (
        serving(gated_model(), max_batch=8) as server,
        ThreadPoolExecutor(len(files)) as pool,
    ):
        before = server.client.get("/metadata").json()["batches"]
        Gated.gate.clear()
        Gated.entered.clear()
        first = pool.submit(server.predict, files[0], params={"top": 7})
        until(Gated.entered.is_set)
        others = [pool.submit(server.predict, file, params={"top": 7}) for file in files[1:]]
        until(lambda: server.in_use("queue") == 9)
        Gated.gate.set()
        answers = [answer.result() for answer in (first, *others)]
        after = server.client.get("/metadata").json()["batches"]
    assert [answer.headers["X-Batch-Size"] for answer in answers] == ["1"] + 8 * ["8"]
    assert before == {} and after == {"1": 1, "8": 1}
    for answer, prediction in zip(answers, expected, strict=True):
        found = {entry["class"]: entry["probability"] for entry in answer.json()["predictions"]}
        assert len(found) == 7
        for score in prediction.scores:
            assert found[score.name] == pytest.approx(score.probability, abs=1e-5)


def test_a_failing_model_is_told_and_the_next_request_answered() -> None:
    with serving(gated_model()) as server:
        Gated.fails.set()
        answer = server.predict(photo())
        assert answer.status_code == 500 and answer.json()["error"].endswith(".")
        Gated.fails.clear()
        assert server.predict(photo()).status_code == 200
        assert server.in_use("queue") == server.in_use("uploads") == 0


def test_batches_are_bounded_and_close_waits_for_the_last() -> None:
    sizes = Counter[int]()

    def run(images: Any) -> Any:
        sizes[len(images)] += 1
        return [image + 1 for image in images]

    async def outputs() -> list[float]:
        batcher = MicroBatcher(run, max_batch=4, max_wait=0.01)
        tasks = [asyncio.create_task(batcher.submit(torch.tensor(float(i)))) for i in range(10)]
        await asyncio.sleep(0)
        # Its client has gone: it takes no place in a batch.
        tasks.pop(3).cancel()
        await asyncio.sleep(0)
        batcher.start()
        await batcher.close()
        return [task.result().output.item() for task in tasks]

    # In a thread of its own, as a browser of other tests has a loop in this one.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, outputs()).result(20) == [1, 2, 3, 5, 6, 7, 8, 9, 10]
    assert sizes == {3: 1, 4: 1, 2: 1}


def accepts(address: tuple[str, int]) -> bool:
    """Whether a connection can be made."""
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_the_end_under_load_loses_nothing() -> None:
    data = photo()

    def hammer(url: str) -> list[int]:
        """Until no more connections are taken; any other failure is a lost request."""
        statuses = []
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
            while True:
                try:
                    statuses.append(client.post("/predict", content=data, headers=JPEG).status_code)
                except httpx.ConnectError:
                    return statuses

    with ThreadPoolExecutor(8) as pool:
        with serving(small_model()) as server:
            clients = [pool.submit(hammer, server.url) for _ in range(8)]
            until(lambda: sum(server.client.get("/metadata").json()["batches"].values()) > 20)
        statuses = Counter(status for client in clients for status in client.result())
    assert set(statuses) == {200} and statuses[200] > 20


def test_a_process_under_load_and_told_to_end() -> None:
    """The model in the box: batches form, memory stays, and SIGTERM loses no request."""
    with process("--last-call=3") as (run, server):
        check_load(server)
        check_sigterm(run, server)


def check_load(server: Running) -> None:
    """What the script prints after a second of eight clients."""
    command = [sys.executable, "examples/serve/load.py", "--seconds=1", "--clients=8"]
    load = subprocess.run(
        [*command, f"--url={server.url}"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert load.returncode == 0, load.stderr
    assert re.search(r"^answers      200: \d+$", load.stdout, re.MULTILINE), load.stdout
    found = re.search(r"^batches      ([\d.]+) images", load.stdout, re.MULTILINE)
    assert found is not None and float(found[1]) > 1.5
    most = re.search(r"(\d+) MiB at the start.* (\d+) at most", load.stdout)
    assert most is not None and int(most[2]) - int(most[1]) < 400
    assert len(server.client.get("/metadata").json()["classes"]) == 100


def check_sigterm(run: subprocess.Popen[str], server: Running) -> None:
    """Twenty uploads are on their way, and one begins after the signal."""
    data, number = photo(), 20
    head = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/jpeg\r\nContent-Length: "
    head += f"{len(data)}\r\n\r\n"
    address = ("127.0.0.1", server.port)
    idle = socket.create_connection(address, timeout=20)
    pending = [socket.create_connection(address, timeout=20) for _ in range(number)]
    for connection in pending:
        connection.sendall(head.encode() + data[:-1])
    until(lambda: server.in_use("uploads") == number)
    run.send_signal(signal.SIGTERM)
    until(lambda: not accepts(address))
    idle.sendall(head.encode() + data)
    for connection in pending:
        connection.sendall(data[-1:])
    for connection in (*pending, idle):
        received = b"".join(iter(lambda c=connection: c.recv(65536), b""))
        connection.close()
        assert received.startswith(b"HTTP/1.1 200 "), received
        assert b"connection: close" in received
    assert run.wait(20) == 0
    assert run.stderr is not None and run.stderr.read() == ""


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--checkpoint=nowhere"], "There is no checkpoint nowhere"),
        (["--max-bytes=0"], "--max-bytes is above 0, got 0"),
        (["--port=70000"], "choose another port"),
    ],
)
def test_a_server_that_cannot_start(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("serve: ") and sentence in errors and errors.count("\n") == 1


def test_the_flags_choose_checkpoint_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, Any] = {}

    def run(app: Any, limits: Any, **options: Any) -> None:
        served.update(title=app.title, limits=limits, **options)

    monkeypatch.setattr("examples.serve.__main__.run", run)
    flags = [f"--checkpoint={BOX}", "--max-batch=3", "--max-wait=0.5", "--host=::1", "--port=0"]
    assert main(flags) == 0
    assert served["title"] == "Foveal: efficientmod_xxs"
    assert (served["host"], served["port"]) == ("::1", 0)
    assert served["limits"] == Limits(max_batch=3, max_wait=0.5)
