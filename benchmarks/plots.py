"""Pictures of the results: latency against accuracy, cost against size, operators under the roof.

python benchmarks/plots.py accuracy FILE.json… [--batch 1] [--output FILE.png]
python benchmarks/plots.py scaling FILE.json…
python benchmarks/plots.py roofline FILE.json…

Without files: those in benchmarks/results. A picture ending in .svg is drawn as such.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

sys.path.insert(0, str(Path(__file__).parents[1]))
from foveal.files import atomic_path
from foveal.models.weights import published_top1
from foveal.tools.latency.plot import COLOURS, MARKERS, name_points, plain_numbers

RESULTS = Path(__file__).parent / "results"


def load(files: Sequence[Path]) -> list[dict[str, Any]]:
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def accuracy(files: Sequence[Path], output: Path, batch: int = 1) -> None:
    """Milliseconds an image against published top-1, from files that models.py wrote."""
    (record, *_) = load(files)
    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    points: dict[str, tuple[float, float, bool]] = {}
    for result in record["results"]:
        if result["batch"] != batch or result["size"] != 224:
            continue
        for name, spread in result["race"]["milliseconds"].items():
            ours = name == "ours"
            label = result["network"] if ours else name
            peer = name.replace("timm ", "timm:")
            top1 = published_top1(label if ours else peer, result["sizes"][name])
            if top1 is not None:
                points[label] = (spread["median"] / batch, top1, ours)
    kinds = ((True, "Foveal", "o"), (False, "timm", "s"))
    for ours, name, style in kinds:
        chosen = [(ms, top1) for ms, top1, mine in points.values() if mine == ours]
        colour = COLOURS[0] if ours else "#888888"
        axes.scatter(*zip(*chosen, strict=True), c=colour, marker=style, label=name, zorder=3)
    axes.set_xscale("log")
    plain_numbers(axes.xaxis, [ms for ms, _, _ in points.values()])
    axes.margins(0.18, 0.1)
    axes.set_xlabel(f"milliseconds per image, batch {batch}")
    axes.set_ylabel("published ImageNet-1K top-1, %")
    axes.legend(frameon=False, loc="lower right")
    name_points(axes, {_short(label): (ms, top1) for label, (ms, top1, _) in points.items()})
    _finish(figure, [axes], record, output)


def scaling(files: Sequence[Path], output: Path) -> None:
    """Time and memory of one image against its side, from files that scaling.py wrote."""
    records = load(files)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    curves = [curve for record in records for curve in record["results"]]
    for index, curve in enumerate(curves):
        style: dict[str, Any] = {"color": COLOURS[index % 7], "marker": MARKERS[index % 7]}
        sizes = [point["size"] for point in curve["points"]]
        seconds = [point["milliseconds"]["median"] / 1e3 for point in curve["points"]]
        memory = [point["peak_mb"] for point in curve["points"]]
        name = curve["network"]
        left.plot(sizes, seconds, label=f"{name}: pixels^{curve['time_power']:.2f}", **style)
        right.plot(sizes, memory, label=f"{name}: pixels^{curve['memory_power']:.2f}", **style)
    sizes = sorted({point["size"] for curve in curves for point in curve["points"]})
    for axes, unit in ((left, "seconds"), (right, "peak memory, MB")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("side of the image, pixels")
        axes.set_ylabel(unit)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.legend(fontsize=8, frameon=False)
    _finish(figure, [left, right], records[0], output)


def roofline(files: Sequence[Path], output: Path) -> None:
    """Operations a second against operations a byte, from a file that ops.py wrote."""
    (record, *_) = load(files)
    ceilings, results = record["ceilings"], record["results"]
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    intensities = [result["flops"] / result["bytes"] for result in results]
    low, high = min(intensities) / 2, max(intensities) * 2
    copy = ceilings["bytes_per_second"]
    roofs = {"matrix products": ceilings["matrix_flops"], "float32": ceilings["vector_flops"]}
    for (name, flops), dash in zip(roofs.items(), ("-", "--"), strict=True):
        edge = flops / copy
        xs = [low, min(max(edge, low), high), high]
        ys = [min(x * copy, flops) / 1e9 for x in xs]
        axes.plot(xs, ys, dash, color="#444444", linewidth=1, label=f"roof: copying, {name}")
    operators = list(dict.fromkeys(result["operator"] for result in results))
    for index, operator in enumerate(operators):
        mine = [result for result in results if result["operator"] == operator]
        xs = [result["flops"] / result["bytes"] for result in mine]
        speeds = {
            name: [r["flops"] / r["race"]["milliseconds"][name]["median"] / 1e6 for r in mine]
            for name in ("ours", "naive")
        }
        colour, marker = COLOURS[index % 7], MARKERS[index % 7]
        axes.vlines(xs, speeds["naive"], speeds["ours"], color=colour, linewidth=0.8, zorder=2)
        axes.scatter(
            xs, speeds["naive"], marker=marker, zorder=3, facecolors="white", edgecolors=colour
        )
        axes.scatter(xs, speeds["ours"], marker=marker, color=colour, label=operator, zorder=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("floating-point operations per byte that must move")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("filled: Foveal   hollow: literal formula", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _finish(figure, [axes], record, output)


def _short(label: str) -> str:
    return label.removeprefix("timm ").removesuffix("_patch4_window7_224")


def _finish(figure: Figure, panels: Sequence[Axes], record: dict[str, Any], output: Path) -> None:
    """What was measured where, and the file."""
    for axes in panels:
        axes.grid(color="#dddddd", linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    found, settings = record["hardware"], record["settings"]
    note = f"{found['device']}, {settings['dtype']}, torch {found['torch']}, commit "
    figure.supxlabel(note + f"{found['commit']}, {found['date'][:10]}", fontsize=7, color="#666666")
    figure.savefig(output, dpi=150)
    plt.close(figure)


KINDS: dict[str, tuple[Callable[..., None], str]] = {
    "accuracy": (accuracy, "models.json"),
    "scaling": (scaling, "scaling.json"),
    "roofline": (roofline, "ops.json"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--batch", type=int, default=1, help="of the accuracy picture")
    parser.add_argument("--output", type=Path, help="default: KIND.png beside the first file")
    args = parser.parse_intermixed_args()
    draw, default = KINDS[args.kind]
    files = args.files or [RESULTS / default]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        parser.error(f"no results at {', '.join(missing)}: run the script that writes them first")
    output = args.output or files[0].with_name(f"{args.kind}.png")
    extra = {"batch": args.batch} if args.kind == "accuracy" else {}
    with atomic_path(output) as path:
        draw(files, path, **extra)
    print(f"Drawn: {output}.")


if __name__ == "__main__":
    main()
