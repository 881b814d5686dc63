"""What a measurement of latency found, row by row."""

from dataclasses import asdict, dataclass
from typing import Any

from foveal.tools.latency.spread import Spread


@dataclass(frozen=True, kw_only=True)
class LatencyRow:
    """One network in one engine.

    Attributes:
        model: name, as for `foveal.create_model`.
        engine: a key of `ENGINES`.
        image_size: side of its images in pixels.
        batch: images a call.
        parameters: of the network as it was made.
        gflop: 10⁹ floating-point operations of one image; None where they could not be counted.
        file_mb: of the engine's file where it has one, else of the weights, in 10⁶ bytes.
        top1: published ImageNet-1K top-1 in per cent at this image size, if one is known.
        peak_memory_mb: most memory above what there was before it was loaded, in 10⁶ bytes.
        disagreement: ‖outputs − eager's‖ / ‖eager's‖, the worst of all inputs.
        latency_ms: milliseconds of one call as the protocol has it, the median of the rounds or the
            mean of the runs; None until it has been timed.
        milliseconds: of the same calls.
        ratio: its time over the first row's: medians of the rounds', or means.
        beyond_noise: whether the ratio lies outside of the noise floor; None where there is none.
        note: how it ran, such as "channels last".
        reason: why it did not run, a sentence, or "".
    """

    model: str
    engine: str
    image_size: int
    batch: int
    parameters: int
    gflop: float | None
    file_mb: float
    top1: float | None
    peak_memory_mb: float | None = None
    disagreement: float | None = None
    latency_ms: float | None = None
    milliseconds: Spread | None = None
    ratio: float | None = None
    beyond_noise: bool | None = None
    note: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """The network and the engine."""
        return f"{self.model}, {self.engine}"


@dataclass(frozen=True)
class LatencyTable:
    """All rows, as far as they are known.

    Attributes:
        protocol: "sound" or "efficientmod".
        settings: what was asked for, plain values.
        hardware: where and with what, plain values.
        rows: in the order asked for, those that were reached.
        noise: the first row's second time over its first, in the same round.
        rounds: how many have been timed.
        complete: whether all that was asked for is there.
        processors: that the process was kept to; none where the system cannot.
    """

    protocol: str
    settings: dict[str, Any]
    hardware: dict[str, Any]
    rows: tuple[LatencyRow, ...] = ()
    noise: Spread | None = None
    rounds: int = 0
    complete: bool = False
    processors: tuple[int, ...] = ()

    @property
    def timed(self) -> tuple[LatencyRow, ...]:
        """The rows that have a time."""
        return tuple(row for row in self.rows if row.latency_ms is not None)

    def to_plain(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)
