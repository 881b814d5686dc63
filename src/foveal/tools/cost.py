"""What running a model costs: images per second, peak memory, and floating-point operations."""

import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foveal.kernels.dispatch import use_backend

T = TypeVar("T")

# Passes whose time does not count: they choose kernels, fill tables and allocate.
WARM_UP = 2
MEASURED = 3

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Cost:
    """What an evaluation cost.

    Attributes:
        images_per_second: of the model alone, batches in memory; the median over batches.
        batch_size: of those batches.
        device: in words.
        peak_memory_mb: most memory at one time, in MB of 10⁶ bytes; None where nothing tells it.
        memory_of: what that memory is: "tensors on the device" or "the process".
    """

    images_per_second: float
    batch_size: int
    device: str
    peak_memory_mb: float | None
    memory_of: str


class CostMeter:
    """Times the passes of a model over batches and watches the memory meanwhile.

    Args:
        device: the model's.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._passes: list[tuple[int, float]] = []
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            reset_resident_peak()

    def time(self, forward: Callable[[], T], num_images: int) -> T:
        """Run `forward` on so many images, to its end on the device, and note the time."""
        self._synchronise()
        start = time.perf_counter()
        output = forward()
        self._synchronise()
        self._passes.append((num_images, time.perf_counter() - start))
        return output

    def top_up(self, forward: Callable[[], object], num_images: int) -> None:
        """Repeat a full batch until enough passes followed the warm-up."""
        while len(self._passes) < WARM_UP + MEASURED:
            self.time(forward, num_images)

    def cost(self) -> Cost:
        """What the passes so far came to; the first two are warm-up, short batches do not count."""
        full = max(count for count, _ in self._passes)
        rates = [count / seconds for count, seconds in self._passes[WARM_UP:] if count == full]
        on_cuda = self.device.type == "cuda"
        return Cost(
            images_per_second=statistics.median(rates),
            batch_size=full,
            device=device_name(self.device),
            peak_memory_mb=(
                torch.cuda.max_memory_allocated(self.device) / 1e6 if on_cuda else resident_peak()
            ),
            memory_of="tensors on the device" if on_cuda else "the process",
        )

    def _synchronise(self) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)


def device_name(device: torch.device) -> str:
    """A device in words: the accelerator's name, or the processor's and its threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def resident_peak() -> float | None:
    """Most memory that the process had resident, in MB of 10⁶ bytes; None on Windows.

    Since the last reset where the system has one (Linux), else since the start.
    """
    if (peak := _status("VmHWM")) is not None:
        return peak
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, KiB elsewhere.
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def resident_now() -> float | None:
    """What the process has resident, in MB of 10⁶ bytes; None but on Linux."""
    return _status("VmRSS")


def reset_resident_peak() -> bool:
    """Let the high-water mark fall to what is resident now; whether the system allowed it."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def count_flops(model: nn.Module, image_size: int, in_chans: int = 3) -> float:
    """10⁹ floating-point operations of one square image, a multiply-add being two.

    Matrix products and convolutions are counted, by torch.utils.flop_counter, nothing else; what is
    fused in the network's fastest form counts as in its plain one. Nothing is computed.
    """
    plain = copy.deepcopy(model).to("meta")
    image = torch.empty(1, in_chans, image_size, image_size, device="meta")
    counter = FlopCounterMode(display=False)
    with use_backend("reference"), counter:
        plain(image.to(next((p.dtype for p in plain.parameters()), image.dtype)))
    return counter.get_total_flops() / 1e9


def _status(field: str) -> float | None:
    """A line of what Linux says of this process, in 10⁶ bytes."""
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024 / 1e6
    return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"
