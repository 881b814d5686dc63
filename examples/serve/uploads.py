"""Bodies of requests, read within limits: of size, of time, and of memory for all of them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from .limits import Bound, Limits
from .refusals import Refusal

FORM = "multipart/form-data"


@asynccontextmanager
async def upload(request: Request, limits: Limits, memory: Bound) -> AsyncIterator[bytes]:
    """The body, whose size counts as long as the block lasts.

    Raises:
        Refusal: 415 for what is no image, 413 for too much, 408 for too slow, 503 where the bodies
            of all requests are too much.
    """
    require_media_type(request)
    _require_size(int(request.headers.get("content-length", 0)), limits)
    body, size = bytearray(), 0
    try:
        await _read(request, limits, memory, body)
        whole, size = bytes(body), len(body)
        body.clear()
        yield whole
    finally:
        memory.give_back(max(size, len(body)))


def require_media_type(request: Request) -> None:
    """Let pass what may be an image.

    Raises:
        Refusal: 415, it is something else.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise Refusal(
            415,
            f"The body is compressed ({encoding[:40]!r}), which image files are already; send the "
            "image file as it is.",
        )
    given = media_type(request)
    if given not in (FORM, "application/octet-stream") and not given.startswith("image/"):
        raise Refusal(
            415,
            f"The Content-Type is {given[:80] or 'missing'!r}; send the image file itself as "
            f"image/jpeg, image/png or application/octet-stream, or as a file in {FORM}.",
        )


def media_type(request: Request) -> str:
    """The content type without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def _read(request: Request, limits: Limits, memory: Bound, body: bytearray) -> None:
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                _require_size(len(body) + len(chunk), limits)
                memory.take(len(chunk))
                body += chunk
    except TimeoutError as error:
        raise Refusal(
            408,
            f"After {limits.body_seconds:g} s, {len(body):,} bytes of the body had come and not "
            "its end; send a smaller image, or over a faster connection.",
        ) from error


def _require_size(size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise Refusal(
            413,
            f"The body has {size:,} bytes or more, and {limits.max_bytes:,} are allowed; send a "
            "smaller or more compressed image.",
        )
