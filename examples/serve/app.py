"""The routes: POST /predict, GET /health, GET /metadata. Errors are {"error": "a sentence"}."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from foveal.tools.trained import TrainedModel

from .batching import MicroBatcher
from .classifier import Classifier
from .limits import Bound, Limits
from .refusals import Refusal, RefusalResponse
from .uploads import upload

DEFAULTS = Limits()


class Service:
    """What one server holds: the model, its batches, and how much of each limit is in use."""

    def __init__(self, trained: TrainedModel, limits: Limits):
        self.limits, self.classifier = limits, Classifier(trained)
        self.uploads = Bound(limits.max_uploads, "too many requests")
        self.memory = Bound(limits.max_upload_bytes, "too many bytes of uploads")
        self.queue = Bound(limits.max_queue, "too many images waiting")
        self.decoders = ThreadPoolExecutor(limits.decoders, "decoder")

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """From the server's start to its end, which waits for the last answer."""
        self.classifier.warm_up(self.limits.max_batch)
        self.batcher = MicroBatcher(
            self.classifier.run, max_batch=self.limits.max_batch, max_wait=self.limits.max_wait
        )
        self.batcher.start()
        yield
        await self.batcher.close()
        self.decoders.shutdown()

    async def predict(self, request: Request, response: Response, top: int) -> dict[str, Any]:
        """From an upload to its classes; see `upload` and `picture` for what is refused."""
        with self.uploads.held():
            async with upload(request, self.limits, self.memory) as body:
                with self.queue.held():
                    image = await asyncio.get_running_loop().run_in_executor(
                        self.decoders,
                        self.classifier.read,
                        body,
                        request.headers["content-type"],
                        self.limits.max_pixels,
                    )
                    answer = await self.batcher.submit(image)
        response.headers["X-Batch-Size"] = str(answer.batch_size)
        return {
            "model": self.classifier.card.model,
            "predictions": self.classifier.classes(answer.output, top),
        }

    def metadata(self) -> dict[str, Any]:
        """Of the model, of the limits, and of the work done."""
        sizes = self.batcher.sizes
        return {
            **self.classifier.metadata(),
            "limits": asdict(self.limits),
            "in_use": {
                "uploads": self.uploads.used,
                "upload_bytes": self.memory.used,
                "queue": self.queue.used,
            },
            "batches": {str(size): count for size, count in sorted(sizes.items())},
        }


def create_app(trained: TrainedModel, limits: Limits = DEFAULTS) -> FastAPI:
    """The app of one model.

    Raises:
        FovealError: the model has no classifier.
    """
    service = Service(trained, limits)
    # Its pages of documentation come from elsewhere on the net.
    app = FastAPI(
        title=f"Foveal: {trained.card.model}",
        lifespan=service.running,
        docs_url=None,
        redoc_url=None,
    )

    @app.post("/predict")
    async def predict(
        request: Request, response: Response, top: Annotated[int, Query(ge=1)] = 5
    ) -> dict[str, Any]:
        """The likeliest classes of the image in the body."""
        return await service.predict(request, response, top)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers."""
        return {"status": "ok"}

    @app.get("/metadata")
    async def metadata() -> dict[str, Any]:
        """What is served, and how it is going."""
        return service.metadata()

    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> Response:
        return RefusalResponse(error)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        sentence = (
            f"{request.method} {request.url.path[:80]} is nothing here; there are POST /predict, "
            "GET /health and GET /metadata."
        )
        return RefusalResponse(Refusal(error.status_code, sentence, error.headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        given = request.query_params.get("top", "")[:40]
        return RefusalResponse(
            Refusal(422, f"top is how many classes to name, 1 or more, got {given!r}.")
        )

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        # Nobody reads this.
        return Response(status_code=400)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return RefusalResponse(Refusal(500, "The server failed at this request; its log says why."))
