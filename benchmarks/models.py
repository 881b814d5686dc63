"""Whole networks against their literal formulas and against named peers: time, work, memory.

python benchmarks/models.py [NETWORK…] [--train] [--prepared] [--output FILE.json]
python benchmarks/models.py --device cuda --dtype bfloat16 --batch 1 32 128 --sizes 224 384

Peers are timm's, each at its own default size where ours is at 224 pixels. They run in whichever of
the two memory layouts is faster for them; ours runs as `foveal.create_model` makes it.
"""

import argparse
import copy
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import focalnet as timm_focalnet
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
import foveal
from benchmarks import timing
from benchmarks.naive import make_naive
from foveal.tools.cost import count_flops
from foveal.tools.latency.engines import LAYOUTS

RESULTS = Path(__file__).parent / "results" / "models.json"
PEERS = {
    "transnext_tiny": "convnext_tiny",
    "focalnet_tiny_srf": "focalnet_tiny_srf",
    "dat_tiny": "swin_tiny_patch4_window7_224",
    "dat_pp_tiny": "swin_tiny_patch4_window7_224",
    "efficientmod_xxs": "mobilevitv2_100",
    "cloformer_xxs": "mobilevitv2_100",
}
DEFAULT_SIZE = 224


@dataclass(frozen=True)
class Contestant:
    """A network ready to run.

    Attributes:
        network: its name.
        model: itself.
        size: side of its images in pixels.
        layout: of weights and images, a key of `LAYOUTS`.
        gflop: of one image forward, by torch.utils.flop_counter.
    """

    network: str
    model: nn.Module
    size: int
    layout: str
    gflop: float


@dataclass(frozen=True)
class Result:
    """What was measured of a network at one size and batch.

    Attributes:
        network: ours; `race` names its rivals.
        size, batch: of its images.
        sizes, layouts, gflop: of every contestant.
        race: times and ratios; `times_faster` counts images of one contestant against the other's.
        peak_memory_mb: above weights and inputs, of every contestant; on a GPU only.
    """

    network: str
    size: int
    batch: int
    sizes: dict[str, int]
    layouts: dict[str, str]
    gflop: dict[str, float]
    race: timing.Race
    peak_memory_mb: dict[str, float]


def peer_of(network: str, ours: nn.Module, size: int) -> tuple[str, nn.Module, int]:
    """timm's network, and the side of its images: its own default for our default."""
    name = PEERS[network]
    options: dict[str, Any] = {"drop_path_rate": 0.0} if "mobilevit" not in name else {}
    if "swin" in name:
        options["img_size"] = size
    peer: Any = timm.create_model(name, **options)
    if name == network:
        official = foveal.convert_state_dict(network, ours.state_dict(), to_official=True)
        peer.load_state_dict(timm_focalnet.checkpoint_filter_fn({"model": official}, peer))
    if size == DEFAULT_SIZE:
        size = peer.default_cfg["input_size"][-1]
    return f"timm {name}", peer, size


def step_of(model: nn.Module, *, train: bool) -> Callable[[Tensor], Any]:
    """A pass forward, or one forward and backward that returns logits and the first gradient."""
    if not train:
        return model
    parameters = list(model.parameters())

    def step(images: Tensor) -> tuple[Tensor, Tensor]:
        for parameter in parameters:
            parameter.grad = None
        logits = model(images)
        # As uneven as a loss's gradient, and the same for all contestants.
        logits.backward(torch.linspace(-1, 1, logits.shape[1]).to(logits).expand_as(logits))
        assert parameters[0].grad is not None
        return logits, parameters[0].grad

    return step


def images_of(batch: int, size: int, layout: str, like: Tensor) -> list[tuple[Tensor]]:
    torch.manual_seed(0)
    shape = (batch, 3, size, size)
    drawn = (torch.randn(shape, dtype=like.dtype) for _ in range(timing.NUM_INPUTS))
    return [(x.to(like.device).to(memory_format=LAYOUTS[layout]),) for x in drawn]


def faster_layout(model: nn.Module, size: int, device: torch.device, *, train: bool) -> str:
    """The memory layout in which one batch of two takes less time; the least of five passes."""
    like, step = next(model.parameters()), step_of(model, train=train)
    least = {}
    for layout, memory_format in LAYOUTS.items():
        model.to(memory_format=memory_format)
        images = images_of(2, size, layout, like)
        passes = [timing.milliseconds_of(step, images, 1, device) for _ in range(6)]
        least[layout] = min(passes[1:])
    return min(least, key=lambda layout: least[layout])


def contestants_of(network: str, size: int, args: argparse.Namespace) -> dict[str, Contestant]:
    """Ours first, then its literal form, ours unprepared if asked for, and the peer."""
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    torch.manual_seed(0)
    ours = foveal.create_model(network, drop_path_rate=0.0)
    peer_name, peer, peer_size = peer_of(network, ours, size)
    ours, peer = (m.to(device, dtype).train(args.train) for m in (ours, peer))
    literal = make_naive(ours)
    # The literal form has every product that there is as one that the counter knows.
    work = count_flops(literal, size)
    found: dict[str, tuple[nn.Module, int, float]] = {}
    if args.prepared:
        prepare = getattr(foveal, "prepare_for_inference")  # noqa: B009 - main has made sure of it
        found["ours"] = (prepare(copy.deepcopy(ours)), size, work)
        found["ours, not prepared"] = (ours, size, work)
    else:
        found["ours"] = (ours, size, work)
    if args.naive:
        found["naive"] = (literal, size, work)
    found[peer_name] = (peer, peer_size, count_flops(peer, peer_size))
    ready = {}
    for name, (model, side, gflop) in found.items():
        layout = "channels first"
        with torch.enable_grad() if args.train else torch.inference_mode():
            # The literal form shares ours' weights, so ours keeps the layout that they have.
            if name == peer_name:
                layout = faster_layout(model, side, device, train=args.train)
        model.to(memory_format=LAYOUTS[layout])
        ready[name] = Contestant(
            network if name != peer_name else name,
            torch.compile(model) if args.compile else model,  # pyright: ignore[reportArgumentType]
            side,
            layout,
            gflop,
        )
    return ready


def measured(
    network: str,
    contestants: dict[str, Contestant],
    batch: int,
    args: argparse.Namespace,
) -> Result:
    """One network at one size and batch."""
    device = torch.device(args.device)
    inputs = {
        name: images_of(batch, c.size, c.layout, next(c.model.parameters()))
        for name, c in contestants.items()
    }
    steps = {name: step_of(c.model, train=args.train) for name, c in contestants.items()}
    # timm's FocalNet has ours' weights and is held to ours' logits; other peers are strangers, and
    # so is its gradient, which is not of the same parameter.
    same = PEERS[network] == network and not args.train
    strangers = [name for name in steps if name.startswith("timm") and not same]
    effort = timing.Effort(args.rounds, args.seconds, warm_up=5 if args.compile else 1)
    with nullcontext() if args.train else torch.inference_mode():
        race = timing.race(
            steps,
            inputs,
            device,
            effort,
            tolerance=timing.TOLERANCES[getattr(torch, args.dtype)],
            strangers=strangers,
        )
        memory = {name: peak_memory(steps[name], inputs[name][0], device) for name in steps}
    return Result(
        network,
        contestants["ours"].size,
        batch,
        {name: c.size for name, c in contestants.items()},
        {name: c.layout for name, c in contestants.items()},
        {name: c.gflop for name, c in contestants.items()},
        race,
        {name: found for name, found in memory.items() if found is not None},
    )


def peak_memory(
    step: Callable[[Tensor], Any], images: tuple[Tensor], device: torch.device
) -> float | None:
    """Most megabytes (10⁶) at one time above what was there before; None but on a GPU."""
    if device.type != "cuda":
        return None
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step(*images)
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def page(results: list[Result], hardware: dict[str, Any], args: argparse.Namespace) -> str:
    """The table and what it was measured with."""
    columns = ["network", "against", "size", "batch", "ms", "against, ms", "× faster"]
    columns += ["× faster per GFLOP", "A/A"] + ["peak MB", "against, MB"] * (args.device != "cpu")
    rows = [row for result in results for row in _rows(result)]
    mode = "forward and backward" if args.train else "forward, inference mode"
    prepared = ", prepared for inference" if args.prepared else ""
    return "\n".join(
        [
            f"# Networks: {mode}, {args.dtype}{', compiled' * args.compile}{prepared}\n",
            timing.table(columns, rows),
            "",
            "Ratios are medians of the rounds' ratios with p10–p90, above 1 where ours is faster; "
            "≈ where A/A, ours against itself in the same rounds, spreads as far. Where a peer's "
            "images are larger than ours its size stands beside its name. Per GFLOP: time over "
            "floating-point operations of one image, counted by torch.utils.flop_counter, which "
            "knows matrix products and convolutions; of ours those of the literal form. naive is "
            "ours by its literal formulas (benchmarks/naive), held to the same logits.\n",
            timing.described(hardware),
            "",
        ]
    )


def _rows(result: Result) -> list[list[str]]:
    race, ours = result.race, result.race.milliseconds["ours"].median
    rows = []
    for name, faster in race.times_faster.items():
        own = result.sizes[name] != result.size
        title = f"{name} at {result.sizes[name]}" if own else name
        work = result.gflop["ours"] / result.gflop[name]
        per_flop = f"{faster.median * work:.2f}" if name.startswith("timm") else "–"
        row = [result.network, title, str(result.size), str(result.batch), f"{ours:.1f}"]
        row += [f"{race.milliseconds[name].median:.1f}", timing.ratio(race, name), per_flop]
        row.append(f"{race.noise:.2f}")
        memory = result.peak_memory_mb
        row += [f"{memory[n]:.0f}" for n in ("ours", name) if n in memory]
        rows.append(row)
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(PEERS))
    parser.add_argument("--train", action="store_true", help="forward and backward")
    parser.add_argument("--prepared", action="store_true", help="foveal.prepare_for_inference")
    parser.add_argument("--no-naive", dest="naive", action="store_false")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--sizes", type=int, nargs="+", default=[DEFAULT_SIZE])
    parser.add_argument("--compile", action="store_true", help="torch.compile, all contestants")
    parser.add_argument("--threads", type=int, default=2, help="on a CPU")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=12.0, help="of rounds, each comparison")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_intermixed_args()
    unknown = set(args.networks) - set(PEERS)
    if unknown:
        parser.error(f"no peer is named for {sorted(unknown)}: choose from {', '.join(PEERS)}")
    if args.prepared and args.train:
        parser.error("a network prepared for inference does not train: leave one of the two out")
    if args.prepared and getattr(foveal, "prepare_for_inference", None) is None:
        parser.error("this version of foveal has no prepare_for_inference")
    return args


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    hardware = timing.hardware(torch.device(args.device))
    results = []
    for network in args.networks or PEERS:
        for size in args.sizes:
            contestants = contestants_of(network, size, args)
            for batch in args.batch:
                results.append(measured(network, contestants, batch, args))
                race = results[-1].race
                ratios = (f"{n} {timing.ratio(race, n)}" for n in race.times_faster)
                print(f"{network}, {size} pixels, batch {batch}: {'; '.join(ratios)}", flush=True)
    text = page(results, hardware, args)
    settings = {k: v for k, v in vars(args).items() if k != "output"}
    record = {"hardware": hardware, "settings": settings, "results": results}
    timing.write(args.output, record, text)
    print(f"\n{text}\nWritten to {args.output} and {args.output.with_suffix('.md')}.")


if __name__ == "__main__":
    main()
