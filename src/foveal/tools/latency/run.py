"""Several networks in several engines, made ready one after the other and timed together."""

import statistics
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from foveal.errors import FovealError, OptionError
from foveal.models.factory import create_model
from foveal.models.weights import published_top1
from foveal.tools.cost import count_flops
from foveal.tools.latency.engines import ENGINES, Loaded, Subject, require_engines
from foveal.tools.latency.hardware import hardware
from foveal.tools.latency.memory import MemoryMeter
from foveal.tools.latency.parity import disagreement, require_agreement
from foveal.tools.latency.protocol import (
    NUM_INPUTS,
    Contestant,
    Effort,
    is_beyond,
    paired_rounds,
    race_of,
    single_runs,
)
from foveal.tools.latency.spread import spread
from foveal.tools.latency.table import LatencyRow, LatencyTable
from foveal.tools.latency.threads import default_threads, pinned_threads

# What each protocol runs by default: rounds of one call a row, or calls of each row.
DEFAULT_RUNS = {"sound": 50, "efficientmod": 4000}
WARM_UP = 5
# Fewer rounds have no spread to speak of.
_LEAST_ROUNDS = 3

OnStep = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class LatencySettings:
    """How networks are timed.

    Attributes:
        engines: keys of `ENGINES`.
        batch: images a call.
        image_size: side in pixels; each network's own if None.
        threads: on the CPU; as the paper's, `default_threads()`, if None.
        protocol: "sound" (paired rounds) or "efficientmod" (one row after the other, the mean).
        runs: rounds, or calls of each row; `DEFAULT_RUNS` if None.
        seed: of the random weights and images.

    Raises:
        OptionError: a value that is not allowed.
    """

    engines: tuple[str, ...] = ("eager", "prepared", "onnx")
    batch: int = 1
    image_size: int | None = None
    threads: int | None = None
    protocol: str = "sound"
    runs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_engines(self.engines)
        if self.protocol not in DEFAULT_RUNS:
            raise OptionError(
                f"The protocol is one of {', '.join(DEFAULT_RUNS)}, got {self.protocol!r}."
            )
        for name in ("batch", "image_size", "threads", "runs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name.replace('_', ' ')} is 1 or more, got {value}.")


def measure_latency(
    models: Sequence[str], settings: LatencySettings, on_step: OnStep = lambda done, total: None
) -> Generator[LatencyTable, None, None]:
    """Time networks, telling after every step how far it has come.

    Weights are random, and those that start out alike are drawn anew, so that agreement with eager
    PyTorch means something. All rows that run live in memory at the same time.

    Args:
        models: names as for `foveal.create_model`; the first, in the first engine that runs it, is
            what all are compared with.
        settings: how.
        on_step: told how many of how many steps are done.

    Yields:
        The table so far: after each row that was made ready, and each round (sound) or row timed.

    Raises:
        FovealError: unknown or repeated model, before anything is measured.
    """
    networks = _created(models, settings.seed)
    threads = settings.threads or default_threads()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="foveal-bench-")))
        processors = stack.enter_context(pinned_threads(threads))
        run = _Run(settings, threads, folder, on_step, len(networks) * len(settings.engines))
        table = LatencyTable(
            settings.protocol,
            {"models": list(networks), **asdict(settings), "threads": threads, "runs": run.runs},
            hardware(torch.device("cuda" if run.on_gpu else "cpu")),
            processors=processors,
        )
        for row in run.made_ready(networks):
            table = replace(table, rows=(*table.rows, row))
            yield table
        timed = run.rounds if settings.protocol == "sound" else run.single
        for table in timed(table):  # noqa: B020 - every step goes on from the one before
            yield table
        yield replace(table, complete=True)


def _created(models: Sequence[str], seed: int) -> dict[str, nn.Module]:
    """All networks by name, so that a wrong name is known before any work."""
    networks: dict[str, nn.Module] = {}
    for name in models:
        if name in networks:
            raise OptionError(f"{name} is named twice; name each network once.")
        torch.manual_seed(seed)
        networks[name] = create_model(name).eval()
        _draw_anew(networks[name])
    return networks


class _Run:
    """What a measurement holds while it goes on."""

    def __init__(
        self, settings: LatencySettings, threads: int, folder: Path, on_step: OnStep, num_rows: int
    ):
        self.settings, self.threads, self.folder = settings, threads, folder
        self.runs = settings.runs or DEFAULT_RUNS[settings.protocol]
        self.on_gpu = torch.cuda.is_available() and any("cuda" in e for e in settings.engines)
        self.contestants: dict[str, Contestant] = {}
        self._on_step, self._done = on_step, 0
        times = self.runs if settings.protocol == "sound" else self.runs * num_rows
        self._total = num_rows + times

    def _step(self, count: int = 1) -> None:
        self._done += count
        self._on_step(self._done, self._total)

    def made_ready(self, networks: dict[str, nn.Module]) -> Iterator[LatencyRow]:
        """A row a network and engine, with all but times; what cannot run says why."""
        for name in list(networks):
            # Engines have copies of their own.
            subject, row = self._subject(name, networks.pop(name))
            reference: list[Tensor] | None = None
            for engine in self.settings.engines:
                own = replace(row, engine=engine)
                try:
                    if reference is None:
                        with torch.inference_mode():
                            reference = [subject.model(images) for images in subject.images]
                    own = self._load(subject, own, reference)
                except Exception as error:  # noqa: BLE001 - whatever an engine raises is its row
                    own = replace(own, reason=_sentence(error))
                self._step()
                yield own

    def _subject(self, name: str, model: nn.Module) -> tuple[Subject, LatencyRow]:
        """A network, and what is known of it before it runs."""
        settings = self.settings
        config = getattr(model, "pretrained_cfg", {})
        channels, _, own_size = config.get("input_size", (3, 224, 224))
        size = settings.image_size or own_size
        shape = (settings.batch, getattr(model, "in_chans", channels), size, size)
        draw = torch.Generator().manual_seed(settings.seed)
        images = [torch.randn(shape, generator=draw) for _ in range(NUM_INPUTS)]
        folder = self.folder / name.replace(":", "-").replace("/", "-")
        folder.mkdir()
        row = LatencyRow(
            model=name,
            engine="",
            image_size=size,
            batch=settings.batch,
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            gflop=_flops(model, size, shape[1]),
            file_mb=_bytes_of(model) / 1e6,
            top1=published_top1(name, size),
        )
        return Subject(name, model, size, images, self.threads, folder), row

    def _load(self, subject: Subject, row: LatencyRow, reference: list[Tensor]) -> LatencyRow:
        """Load into an engine, hold its outputs to eager's, and keep it for the timing."""
        prepared = ENGINES[row.engine](subject)
        meter = MemoryMeter(prepared.device)
        loaded = prepared.load()
        call, inputs, _ = loaded.contestant
        with torch.inference_mode():
            call(*inputs[0])
            if loaded.compiles:
                meter = MemoryMeter(prepared.device)
            call(*inputs[1])
            peak = meter.megabytes()
            error = _worst(loaded, reference)
        require_agreement(error, row.engine, "eager", loaded.tolerance)
        self.contestants[row.name] = loaded.contestant
        if peak is not None and loaded.compiles:
            peak += row.file_mb
        files = prepared.files
        return replace(
            row,
            peak_memory_mb=peak,
            disagreement=error,
            file_mb=sum(f.stat().st_size for f in files) / 1e6 if files else row.file_mb,
            note=loaded.note,
        )

    def rounds(self, table: LatencyTable) -> Iterator[LatencyTable]:
        """The table after every round in which all rows ran."""
        if not self.contestants:
            return
        effort = Effort(self.runs, float("inf"), WARM_UP, sample_ms=5, settling=1)
        rounds = paired_rounds(self.contestants, effort)
        past: list[dict[str, float]] = []
        while True:
            # A generator does not keep the mode that it was begun in.
            with torch.inference_mode():
                times = next(rounds, None)
            if times is None:
                return
            past.append(times)
            self._step()
            yield _with_rounds(table, past, list(self.contestants))

    def single(self, table: LatencyTable) -> Iterator[LatencyTable]:
        """The table after every row, each having run on its own."""
        first: float | None = None
        for index, row in enumerate(table.rows):
            if row.name not in self.contestants:
                continue
            times = []
            runs = single_runs(self.contestants[row.name], self.runs, WARM_UP)
            for _ in range(self.runs):
                with torch.inference_mode():
                    times.append(next(runs))
                self._step()
            mean = statistics.fmean(times)
            first = first or mean
            timed = replace(row, latency_ms=mean, milliseconds=spread(times), ratio=mean / first)
            table = replace(table, rows=(*table.rows[:index], timed, *table.rows[index + 1 :]))
            yield table


def _with_rounds(
    table: LatencyTable, past: Sequence[dict[str, float]], names: Sequence[str]
) -> LatencyTable:
    """The table with the rounds so far."""
    race = race_of(past, names)
    enough = len(past) >= _LEAST_ROUNDS

    def timed(row: LatencyRow) -> LatencyRow:
        if row.name not in race.milliseconds:
            return row
        is_first = row.name == names[0]
        ratio = 1.0 if is_first else race.times_faster[row.name].median
        return replace(
            row,
            latency_ms=race.milliseconds[row.name].median,
            milliseconds=race.milliseconds[row.name],
            ratio=ratio,
            beyond_noise=is_beyond(ratio, race.noise) and not is_first if enough else None,
        )

    rows = tuple(timed(row) for row in table.rows)
    noise = race.noise if enough else None
    return replace(table, rows=rows, noise=noise, rounds=len(past))


def _worst(loaded: Loaded, reference: Sequence[Tensor]) -> float:
    call, inputs, _ = loaded.contestant
    return max(
        disagreement(call(*given).cpu(), expected)
        for given, expected in zip(inputs, reference, strict=True)
    )


def _draw_anew(model: nn.Module) -> None:
    """Draw what starts out constant: layer scales of 1e-6 and tables of zeros hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.min() == parameter.max():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


def _flops(model: nn.Module, image_size: int, in_chans: int) -> float | None:
    try:
        return count_flops(model, image_size, in_chans)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError):
        # A network that does not run without data, or not at this size: its rows tell.
        return None


def _bytes_of(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def _sentence(error: Exception) -> str:
    """Why an engine cannot, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, FovealError):
        return " ".join(lines)
    first = lines[0] if lines else "no reason given"
    return f"It cannot run this network ({type(error).__name__}: {first[:200].rstrip('.')})."
