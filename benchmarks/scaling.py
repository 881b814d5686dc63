"""Time and peak memory of one image against its size, and the power of the pixels they grow by.

python benchmarks/scaling.py [NETWORK…] [--sizes 224 448 …] [--device cuda] [--output FILE.json]

Every size has a process of its own, hence a peak of its own. `transnext_micro, linear` pools
to 7 × 7 keys whatever the image; its last stage attends to everything all the same.
"""

import argparse
import math
import multiprocessing
import sys
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import foveal
from benchmarks import timing
from foveal.files import atomic_path
from foveal.tools.cost import reset_resident_peak, resident_now, resident_peak

RESULTS = Path(__file__).parent / "results" / "scaling.json"
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "transnext_micro, linear": ("transnext_micro", {"pool_size": 7}),
    "transnext_micro_aaaa, linear": ("transnext_micro_aaaa", {"pool_size": 8}),
    "transnext_micro": ("transnext_micro", {}),
    "focalnet_tiny_srf": ("focalnet_tiny_srf", {}),
    "efficientmod_xxs": ("efficientmod_xxs", {}),
}
DEFAULT = ("transnext_micro, linear", "focalnet_tiny_srf", "efficientmod_xxs")
SIZES = (224, 320, 448, 640, 896, 1280, 2048)


@dataclass(frozen=True)
class Point:
    """One network at one size.

    Attributes:
        size: side of the image in pixels.
        milliseconds: of a pass forward.
        peak_mb: most memory at one time above what was in use before the passes, in 10⁶ bytes.
    """

    size: int
    milliseconds: timing.Spread
    peak_mb: float


@dataclass(frozen=True)
class Curve:
    """One network over all sizes.

    Attributes:
        network: its name here.
        points: sizes rising.
        time_power, memory_power: the cost grows as the number of pixels to this power: slope of the
            least-squares line through the logarithms, over the sizes from 448 pixels up.
    """

    network: str
    points: tuple[Point, ...]
    time_power: float
    memory_power: float


def known(megabytes: float | None) -> float:
    """What only Linux tells."""
    if megabytes is None:
        raise SystemExit("Memory on a processor is measured on Linux only: give --device cuda.")
    return megabytes


@torch.inference_mode()
def measure(network: str, size: int, args: argparse.Namespace, answer: Connection) -> None:
    """One point, sent back from a process of its own."""
    torch.set_num_threads(args.threads)
    device, dtype = torch.device(args.device), getattr(torch, args.dtype)
    name, options = NETWORKS[network]
    model = foveal.create_model(name, **options).to(device, dtype).eval()
    image = torch.randn(1, 3, size, size, device=device, dtype=dtype)
    on_gpu = device.type == "cuda"
    if on_gpu:
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        # Whatever a first pass sets up once is not the size's.
        model(image[:, :, :64, :64])
        # Where the system does not let the peak fall, the start counts too.
        reset_resident_peak()
        before = known(resident_now())
    milliseconds, start = [], time.perf_counter()
    for _ in range(args.rounds + 1):
        milliseconds.append(timing.milliseconds_of(model, [(image,)], 1, device))
        if time.perf_counter() - start > args.seconds:
            break
    peak = torch.cuda.max_memory_allocated(device) / 1e6 - before / 1e6 if on_gpu else 0.0
    peak = peak if on_gpu else known(resident_peak()) - before
    # The first pass fills tables and buffers, unless it was the only one that there was time for.
    kept = milliseconds[1:] or milliseconds
    answer.send(Point(size, timing.spread(kept), peak))


def point(network: str, size: int, args: argparse.Namespace) -> Point:
    """`measure` in a fresh process, forked before PyTorch has started threads here."""
    context: Any = multiprocessing.get_context("fork" if args.device == "cpu" else "spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(network, size, args, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise SystemExit(f"{network} at {size} pixels ended without an answer.") from None
    finally:
        process.join()


def power(sizes: list[int], values: list[float]) -> float:
    """Slope of log value over log pixels, from 448 pixels up if there are two such sizes."""
    pairs = [(s, v) for s, v in zip(sizes, values, strict=True) if s >= 448]
    pairs = pairs if len(pairs) > 1 else list(zip(sizes, values, strict=True))
    if len(pairs) < 2:
        return math.nan
    pixels, costs = [s * s for s, _ in pairs], [v for _, v in pairs]
    return float(np.polyfit(np.log(pixels), np.log(costs), 1)[0])


def curve(network: str, args: argparse.Namespace) -> Curve:
    """One network over all sizes."""
    points = []
    for size in sorted(args.sizes):
        points.append(point(network, size, args))
        ms, mb = points[-1].milliseconds.median, points[-1].peak_mb
        print(f"{network}, {size} pixels: {ms:.0f} ms, {mb:.0f} MB", flush=True)
    sizes = [p.size for p in points]
    return Curve(
        network,
        tuple(points),
        power(sizes, [p.milliseconds.median for p in points]),
        power(sizes, [p.peak_mb for p in points]),
    )


def page(curves: list[Curve], hardware: dict[str, Any], args: argparse.Namespace) -> str:
    """The table and what it was measured with."""
    sizes = [str(p.size) for p in curves[0].points]
    rows = []
    for c in curves:
        rows.append([c.network, "ms", *(f"{p.milliseconds.median:.0f}" for p in c.points)])
        rows[-1].append(f"{c.time_power:.2f}")
        rows.append([c.network, "MB", *(f"{p.peak_mb:.0f}" for p in c.points)])
        rows[-1].append(f"{c.memory_power:.2f}")
    return "\n".join(
        [
            f"# One image of each size: {args.dtype}, forward, inference mode\n",
            timing.table(["network", "", *sizes, "power of the pixels"], rows),
            "",
            "Medians of passes after the first, for as long as one size may take. MB (10⁶ bytes): "
            "most at one time above the network and the image, on a CPU of the whole process. The "
            "power is the slope of the least-squares line through the logarithms from 448 pixels "
            "up: 1 is linear in the number of pixels, 2 quadratic.\n",
            timing.described(hardware),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help="; ".join(NETWORKS))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--threads", type=int, default=2, help="on a CPU")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=6.0, help="of passes, each size")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_intermixed_args()
    unknown = set(args.networks) - set(NETWORKS)
    if unknown:
        parser.error(f"no network {sorted(unknown)}: choose from {'; '.join(NETWORKS)}")
    curves = [curve(network, args) for network in args.networks or DEFAULT]
    torch.set_num_threads(args.threads)
    hardware = timing.hardware(torch.device(args.device))
    text = page(curves, hardware, args)
    settings = {k: v for k, v in vars(args).items() if k != "output"}
    timing.write(args.output, {"hardware": hardware, "settings": settings, "results": curves}, text)
    from benchmarks import plots

    with atomic_path(args.output.with_suffix(".png")) as path:
        plots.scaling([args.output], path)
    print(f"\n{text}\nWritten to {args.output}, its .md and its .png.")


if __name__ == "__main__":
    main()
