"""Requests that are refused: a status, and one sentence that says how to do better."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

# How long a client that is still sending has to notice the answer.
LINGER_SECONDS = 1.0


class Refusal(Exception):
    """An answer other than a prediction.

    Args:
        status: of HTTP.
        sentence: what was given, what is allowed, how to fix it.
        headers: of the answer.
    """

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})


class RefusalResponse(JSONResponse):
    """The sentence as JSON; the connection is closed, as the body may not have been read.

    A connection that is closed while its client is still sending is reset, and with it the answer
    that the client has not read yet. So what still comes is thrown away for a moment.
    """

    def __init__(self, refusal: Refusal):
        headers = {**refusal.headers, "Connection": "close"}
        super().__init__({"error": refusal.sentence}, refusal.status, headers)
        # A client that is slow has had its time.
        self.lingers = refusal.status != 408

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        if self.lingers:
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await _discard(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _discard(receive: Receive) -> None:
    more = True
    while more:
        message = await receive()
        more = message["type"] == "http.request" and message.get("more_body", False)
