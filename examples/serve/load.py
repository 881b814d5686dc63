"""Many clients at a server on this machine for a while: requests a second, latency, memory.

python examples/serve/load.py [--url http://127.0.0.1:8000] [--seconds 30] [--clients 16]
"""

import asyncio
import ipaddress
import statistics
import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from io import BytesIO

import httpx
import psutil
from PIL import Image

_SIDES = ((640, 480), (480, 640), (800, 600), (320, 240))


def pictures() -> list[bytes]:
    """JPEG files of the sizes that web pages show."""
    files = []
    for width, height in _SIDES:
        buffer = BytesIO()
        noise = Image.effect_noise((width, height), 60).convert("RGB")
        noise.save(buffer, "jpeg", quality=85)
        files.append(buffer.getvalue())
    return files


def require_loopback(url: str) -> None:
    """Exit for any server but one of this machine: others would call this an attack."""
    host = httpx.URL(url).host
    try:
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        here = False
    if not here:
        sys.exit(f"load: --url is of this machine, such as http://127.0.0.1:8000, got {url!r}.")


def server_process(url: str) -> psutil.Process | None:
    """The process that listens at this port, where the system lets us see it."""
    port = httpx.URL(url).port
    try:
        found = psutil.net_connections("tcp")
    except psutil.AccessDenied:
        return None
    listening = (
        connection.pid
        for connection in found
        if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,)
    )
    return next((psutil.Process(pid) for pid in listening if pid is not None), None)


def megabytes(process: psutil.Process | None) -> float:
    """Resident memory in MiB; not a number where it cannot be seen."""
    return process.memory_info().rss / 2**20 if process is not None else float("nan")


async def one_client(
    client: httpx.AsyncClient,
    files: Sequence[bytes],
    until: float,
    statuses: Counter[str],
    seconds: list[float],
) -> None:
    """Request after request until the time is over."""
    number = 0
    while (start := time.monotonic()) < until:
        file = files[number % len(files)]
        number += 1
        try:
            headers = {"Content-Type": "image/jpeg"}
            answer = await client.post("/predict", content=file, headers=headers)
            statuses[str(answer.status_code)] += 1
        except httpx.HTTPError as error:
            statuses[type(error).__name__] += 1
        seconds.append(time.monotonic() - start)


async def watch(process: psutil.Process | None, memory: list[float]) -> None:
    """Note the server's memory again and again."""
    while True:
        memory.append(megabytes(process))
        await asyncio.sleep(0.25)


async def load(options: Namespace) -> None:
    """Send, and print what came of it."""
    statuses, seconds, memory = Counter[str](), list[float](), list[float]()
    process = server_process(options.url)
    limits = httpx.Limits(max_connections=options.clients)
    async with httpx.AsyncClient(
        base_url=options.url, limits=limits, timeout=30, trust_env=False
    ) as client:
        before = (await client.get("/metadata")).json()["batches"]
        watching = asyncio.create_task(watch(process, memory))
        start = time.monotonic()
        files, until = pictures(), start + options.seconds
        await asyncio.gather(
            *(one_client(client, files, until, statuses, seconds) for _ in range(options.clients))
        )
        took = time.monotonic() - start
        watching.cancel()
        memory.append(megabytes(process))
        batches = Counter((await client.get("/metadata")).json()["batches"])
    batches.subtract(before)
    report(seconds, took, statuses, memory, batches)


def report(
    seconds: Sequence[float],
    took: float,
    statuses: Counter[str],
    memory: Sequence[float],
    batches: Counter[str],
) -> None:
    """Print the figures, one a line."""
    cuts = statistics.quantiles(seconds, n=100) if len(seconds) > 1 else [seconds[0]] * 99
    images = sum(int(size) * count for size, count in batches.items())
    print(f"requests     {len(seconds)} in {took:.1f} s, {len(seconds) / took:.1f} a second")
    print(f"latency      p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms")
    print("answers      " + ", ".join(f"{k}: {n}" for k, n in sorted(statuses.items())))
    print(f"batches      {images / max(1, batches.total()):.1f} images on average")
    print(
        f"server RSS   {memory[0]:.0f} MiB at the start, {memory[-1]:.0f} at the end, "
        f"{max(memory):.0f} at most"
    )


def main() -> None:
    """Read the flags, and go."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=30, help="up to 600 (default: 30)")
    parser.add_argument("--clients", type=int, default=16, help="up to 256 (default: 16)")
    options = parser.parse_args()
    require_loopback(options.url)
    if not (0 < options.seconds <= 600 and 1 <= options.clients <= 256):
        sys.exit(
            "load: --seconds is up to 600 and --clients 1 to 256, got "
            f"{options.seconds:g} and {options.clients}."
        )
    try:
        asyncio.run(load(options))
    except httpx.ConnectError:
        sys.exit(f"load: nothing answers at {options.url}; start it: python -m examples.serve.")


if __name__ == "__main__":
    main()
