"""Images of requests that come at about the same time go through the model together."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import NamedTuple

from torch import Tensor

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Answer(NamedTuple):
    """What the model gave for an image, and how many images it was given at once."""

    output: Tensor
    batch_size: int


class MicroBatcher:
    """While one batch is with the model, the next one gathers.

    Args:
        run: the model, from images to as many outputs; called in one thread, never twice at a time.
        max_batch: images at once.
        max_wait: seconds that an image waits for others while the model has nothing else to do.
    """

    def __init__(self, run: Run, *, max_batch: int, max_wait: float):
        self._run, self._max_batch, self._max_wait = run, max_batch, max_wait
        self._waiting: asyncio.Queue[tuple[Tensor, asyncio.Future[Answer]]] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "model")
        self._worker: asyncio.Task[None] | None = None
        self.sizes = Counter[int]()
        """How often a batch had which size."""

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End once every image has its answer."""
        await self._waiting.join()
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker
        self._thread.shutdown()

    async def submit(self, image: Tensor) -> Answer:
        """The model's output for an image; what the model raises, this raises."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((image, answer))
        return await answer

    async def _work(self) -> None:
        while True:
            batch = await self._gather()
            # Nobody waits any more for those whose client has gone.
            wanted = [(image, answer) for image, answer in batch if not answer.cancelled()]
            if wanted:
                await self._answer([image for image, _ in wanted], [answer for _, answer in wanted])
            for _ in batch:
                self._waiting.task_done()

    async def _gather(self) -> list[tuple[Tensor, asyncio.Future[Answer]]]:
        batch = [await self._waiting.get()]
        with suppress(TimeoutError):
            async with asyncio.timeout(self._max_wait):
                while len(batch) < self._max_batch:
                    batch.append(await self._waiting.get())
        return batch

    async def _answer(
        self, images: Sequence[Tensor], answers: Sequence[asyncio.Future[Answer]]
    ) -> None:
        running = asyncio.get_running_loop().run_in_executor(self._thread, self._run, images)
        (outputs,) = await asyncio.gather(running, return_exceptions=True)
        if isinstance(outputs, BaseException):
            # Whatever it is, those who wait are told, and the next batch may do well.
            for answer in answers:
                if not answer.cancelled():
                    answer.set_exception(outputs)
            return
        self.sizes[len(images)] += 1
        for answer, output in zip(answers, outputs, strict=True):
            if not answer.cancelled():
                answer.set_result(Answer(output, len(images)))
