"""Being asked to stop, as a scheduler of jobs does before it takes the machine away."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class StopRequest:
    """Whether SIGTERM has come; inside the block it ends nothing by itself."""

    def __init__(self) -> None:
        self.asked = False
        self._before: signal.Handlers | object | None = None

    def __enter__(self) -> Self:
        # Only the main thread may say what a signal does.
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # pyright: ignore[reportArgumentType]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
