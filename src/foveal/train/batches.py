"""One process's batches of an epoch, from any of them on."""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor


class Batches:
    """Batches on the device, of a loader that may know how to go on in mid-epoch.

    Args:
        loader: of this process's batches. `set_epoch`, of the loader or else its sampler and
            dataset, is called before each epoch; `state_dict` and `load_state_dict` lead back to a
            batch, or, without them, the batches before it are loaded again and passed over.
        device: where tensors go.
        channels_last: memory format of four-dimensional tensors.
    """

    def __init__(self, loader: Any, device: torch.device, *, channels_last: bool = False):
        self.loader = loader
        self.device = device
        self.memory = torch.channels_last if channels_last else torch.preserve_format

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, if it knows."""
        return self.loader.state_dict() if hasattr(self.loader, "state_dict") else {}

    def epoch(
        self, number: int, consumed: int = 0, state: dict[str, Any] | None = None
    ) -> Iterator[Any]:
        """The batches of an epoch after the first `consumed`, whose loader state was `state`."""
        self._set_epoch(number)
        skip = consumed
        if consumed and state:
            self.loader.load_state_dict(state)
            skip = 0
        # A loader draws a seed for its workers as it starts, once more after a resume: not from
        # the generator that dropout uses.
        with torch.random.fork_rng(devices=[]):
            batches = islice(self.loader, skip, None)
            first = list(islice(batches, 1))
        return (self.move(batch) for batch in chain(first, batches))

    def move(self, value: Any) -> Any:
        """Tensors in mappings and sequences, on the device."""
        if isinstance(value, Tensor):
            memory = self.memory if value.ndim == 4 else torch.preserve_format
            return value.to(self.device, non_blocking=True, memory_format=memory)
        if isinstance(value, dict):
            return {key: self.move(item) for key, item in value.items()}
        return [self.move(item) for item in value] if isinstance(value, (list, tuple)) else value

    def _set_epoch(self, number: int) -> None:
        parts = [getattr(self.loader, name, None) for name in ("sampler", "dataset")]
        for part in [self.loader] if hasattr(self.loader, "set_epoch") else parts:
            set_epoch = getattr(part, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(number)
