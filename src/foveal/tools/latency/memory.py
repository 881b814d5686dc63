"""How much memory running a network takes above what was taken before."""

import ctypes
import gc

import torch

from foveal.tools.cost import reset_resident_peak, resident_now, resident_peak


class MemoryMeter:
    """Watches the memory from its making on.

    On a processor it is that of the whole process, and unknown but on Linux; on a GPU that of the
    tensors.

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._before: float | None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device) / 1e6
        else:
            _give_back()
            self._before = resident_now() if reset_resident_peak() else None

    def megabytes(self) -> float | None:
        """The most at one time since then above what there was then, in MB of 10⁶ bytes."""
        if self._before is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6 - self._before
        peak = resident_peak()
        return None if peak is None else max(peak - self._before, 0.0)


def _give_back() -> None:
    """Let the C library return what it keeps of freed memory, or the next to ask takes that."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
