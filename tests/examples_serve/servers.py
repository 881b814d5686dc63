"""Servers for tests: in a thread with a small network, or in a process of their own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import Any, ClassVar, NamedTuple, cast

import httpx
import torch
from examples.serve.app import create_app
from examples.serve.limits import Limits
from examples.serve.server import Server
from PIL import Image
from torch import Tensor, nn

from foveal.tools.trained import TrainedModel, model_by_name

ROOT = Path(__file__).parents[2]
JPEG = {"Content-Type": "image/jpeg"}


@cache
def small_model() -> TrainedModel:
    """A network of a few milliseconds, which takes no two images for quite the same."""
    torch.manual_seed(0)
    options = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_classes": 7}
    trained = model_by_name("focalnet_tiny_srf", options=options, image_size=32)
    head = cast(Any, trained.model).get_classifier()
    with torch.no_grad():
        head.weight.mul_(20)
    return trained


def encoded(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    """As a file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photo(number: int = 0) -> bytes:
    """A JPEG file that is not like the others."""
    image = Image.linear_gradient("L").rotate(17 * number).convert("RGB")
    return encoded(image, "jpeg", quality=90)


def until(holds: Callable[[], Any], seconds: float = 20) -> None:
    """Wait for something that is to come about soon."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


class Gated(nn.Module):
    """A network that waits before each batch while its gate is shut, or fails."""

    # Of the class, as the server makes a copy of the network.
    entered: ClassVar = Event()
    gate: ClassVar = Event()
    fails: ClassVar = Event()

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.gate.set()
        self.fails.clear()

    def forward(self, x: Tensor) -> Tensor:
        """As the network within."""
        self.entered.set()
        assert self.gate.wait(20), "nobody opened the gate"
        if self.fails.is_set():
            raise RuntimeError("out of memory")
        return self.inner(x)


def gated_model() -> TrainedModel:
    """The same network behind a gate, which is open."""
    trained = small_model()
    return replace(trained, model=Gated(trained.model))


class Running(NamedTuple):
    """A server that answers."""

    url: str
    client: httpx.Client

    @property
    def port(self) -> int:
        """That it listens at."""
        return httpx.URL(self.url).port or 0

    def in_use(self, what: str) -> int:
        """How much of a limit is in use."""
        return self.client.get("/metadata").json()["in_use"][what]

    def predict(self, data: bytes = b"", **options: Any) -> httpx.Response:
        """POST /predict with a JPEG, or with what the options say."""
        return self.client.post("/predict", **{"content": data, "headers": JPEG, **options})


@contextmanager
def client_of(url: str) -> Iterator[httpx.Client]:
    """One that asks nobody else."""
    with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
        yield client


@contextmanager
def serving(trained: TrainedModel, **given: Any) -> Iterator[Running]:
    """In a thread of this process."""
    limits = Limits(**{"last_call": 0.1, **given})
    server = Server(create_app(trained, limits), limits, host="127.0.0.1", port=0)
    thread = Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.url or not thread.is_alive())
        with client_of(server.url) as client:
            yield Running(server.url, client)
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def started(*flags: str) -> subprocess.Popen[str]:
    """The command of the README, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-m", "examples.serve", "--port=0", *flags],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def process(*flags: str) -> Iterator[tuple[subprocess.Popen[str], Running]]:
    """The same, once it answers; ended by force where the test did not end it."""
    run = started(*flags)
    try:
        assert run.stdout is not None and run.stderr is not None
        line = run.stdout.readline()
        assert line.startswith("Serving on http://127.0.0.1:"), run.stderr.read()
        with client_of(line.split()[2].rstrip(";")) as client:
            yield run, Running(str(client.base_url), client)
    finally:
        if run.poll() is None:
            run.kill()
        run.communicate()
