"""The figures of a run: metrics.jsonl, a line a step, and TensorBoard's files."""

from types import TracebackType
from typing import Any, Self

from foveal.errors import MissingExtraError
from foveal.train.config import TrainConfig
from foveal.train.run_folder import RunFolder


class Journal:
    """Writes every step once; an evaluation goes into the line of the step that it follows.

    Args:
        folder: of the run.
        config: how often, and whether for TensorBoard.
        write: False on all processes but one.
    """

    def __init__(self, folder: RunFolder, config: TrainConfig, *, write: bool = True):
        self.folder = folder
        self.every = config.log_every
        self.write = write
        self._pending: dict[str, Any] | None = None
        self._board = _board(folder) if write and config.tensorboard else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()
        if self._board is not None:
            self._board.close()

    def step(self, **record: float) -> None:
        """A step's figures, `step` among them."""
        self.flush()
        self._pending = dict(record)

    def evaluation(self, **scores: float) -> None:
        """The figures of the evaluation after the last step, `val_loss` beside the step's loss."""
        step = self._pending or {}
        self._pending = step | {f"val_{k}" if k in step else k: v for k, v in scores.items()}
        self.flush()

    def flush(self) -> None:
        """Write what the last step came to."""
        record, self._pending = self._pending, None
        if record is None or not self.write:
            return
        if record["step"] % self.every and "epoch" not in record:
            return
        self.folder.log(**record)
        if self._board is not None:
            for name, value in record.items():
                if name != "step":
                    self._board.add_scalar(name, value, record["step"])


def _board(folder: RunFolder) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("tensorboard", "train") from error
    return SummaryWriter(str(folder.tensorboard))
