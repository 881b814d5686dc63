"""Every operator against its literal formula, and on a GPU against its plain form: time and floor.

python benchmarks/ops.py [--device cuda --dtype bfloat16 --batch 128] [--output FILE.json]

Shapes are those of the tiny networks at 224 pixels, stage by stage. Activations come as the layers
before hand them over: channels last, keys and values as views of one projection.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import floors, naive, timing
from foveal.kernels import launch, onednn
from foveal.kernels.aggregated_attention import AttentionTerms, aggregated_attention
from foveal.kernels.deformable_attention import deformable_attention
from foveal.kernels.depthwise_convolution import depthwise_convolution
from foveal.kernels.dispatch import use_backend
from foveal.kernels.focal_aggregation import focal_aggregation
from foveal.kernels.gated_product import gated_product
from foveal.kernels.neighborhood_attention import neighborhood_attention
from foveal.kernels.position_bias import BiasMLP, LogSpacedBias

RESULTS = Path(__file__).parent / "results" / "ops.json"
SIDES = (56, 28, 14, 7)


@dataclass(frozen=True)
class Setup:
    """What the inputs are made with: images a batch, dtype and device."""

    batch: int
    dtype: torch.dtype
    device: torch.device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, dtype=self.dtype, device=self.device)

    def parameter(self, *shape: int) -> Tensor:
        return 0.02 * torch.randn(shape, device=self.device)


@dataclass(frozen=True)
class Case:
    """One operator at one size.

    Attributes:
        operator: its name.
        size: in words.
        ours: the library's.
        others: by name, the literal formula first.
        draw: new arguments for all of them.
        cost: what it must move and compute.
    """

    operator: str
    size: str
    ours: Callable[..., Tensor]
    others: dict[str, Callable[..., Tensor]]
    draw: Callable[[], tuple[Any, ...]]
    cost: floors.Cost


@dataclass(frozen=True)
class Result:
    """What was measured of a case; `backend` is what the library chose."""

    operator: str
    size: str
    backend: str
    race: timing.Race
    floor_ms: float
    percent_of_floor: float
    bytes: int
    flops: int


def aggregated(setup: Setup) -> Iterator[Case]:
    """TransNeXt-tiny: the window with a single pooled cell beside it, then with the whole map."""
    item = setup.dtype.itemsize
    for side, heads in zip(SIDES[:3], (3, 6, 12), strict=True):
        for cells, what in ((1, "window of aggregated attention"), (7, "aggregated attention")):

            def draw(side: int = side, heads: int = heads, cells: int = cells) -> tuple[Any, ...]:
                b, d = setup.batch, 24
                query = setup.normal(b, side, side, heads, d)
                key, value = setup.normal(b, side, side, 2, heads, d).unbind(3)
                pooled = setup.normal(b, cells, cells, 2, heads, d).unbind(3)
                terms = AttentionTerms(
                    setup.parameter(heads, d),
                    setup.parameter(heads) + 4,
                    setup.parameter(heads, 9),
                    setup.parameter(heads, d, 9),
                    setup.parameter(heads, 9),
                )
                # Where the window is measured, the bias of the one cell must not count.
                hidden = 512 if cells > 1 else 1
                shapes = ((hidden, 2), (hidden,), (heads, hidden), (heads,))
                mlp = BiasMLP(*(setup.parameter(*shape) for shape in shapes))
                return query, key, value, *pooled, terms, LogSpacedBias(mlp, side)

            yield Case(
                what,
                f"{side}², {heads} heads of 24",
                aggregated_attention,
                {"naive": naive.transnext.aggregated_attention},
                draw,
                floors.aggregated_attention(setup.batch, side, side, heads, 24, cells**2, item),
            )


def neighborhood(setup: Setup) -> Iterator[Case]:
    """DAT++-tiny, 7 × 7 neighbours."""
    for side, heads in zip(SIDES[:3], (2, 4, 8), strict=True):

        def draw(side: int = side, heads: int = heads) -> tuple[Any, ...]:
            q, k, v = setup.normal(setup.batch, side, side, 3, heads, 32).unbind(3)
            return q, k, v, setup.parameter(heads, 13, 13).to(setup.dtype), (side, side), 7

        yield Case(
            "neighbourhood attention",
            f"{side}², {heads} heads of 32, 7 × 7",
            neighborhood_attention,
            {"naive": naive.dat.neighborhood_attention},
            draw,
            floors.neighborhood_attention(
                setup.batch, side, side, heads, 32, 7, setup.dtype.itemsize
            ),
        )


def deformable(setup: Setup) -> Iterator[Case]:
    """DAT++-tiny: 49 keys anywhere on the map, one position in ten past its edge."""
    for side, heads, groups in zip(SIDES, (2, 4, 8, 16), (1, 2, 4, 8), strict=True):

        def draw(side: int = side, heads: int = heads, groups: int = groups) -> tuple[Any, ...]:
            b, n = setup.batch, 49
            q = setup.normal(b, side, side, heads, 32).permute(0, 3, 1, 2, 4)
            k, v = (setup.normal(b, n, heads, 32).transpose(1, 2) for _ in range(2))
            positions = 2.2 * torch.rand(b, groups, n, 2, device=setup.device) - 1.1
            table = setup.parameter(heads, 2 * side - 1, 2 * side - 1)
            axis = torch.linspace(-1, 1, side, device=setup.device)
            return q, k, v, positions, table, axis, axis

        yield Case(
            "deformable attention",
            f"{side}², {heads} heads of 32, 49 keys",
            partial(deformable_attention, corner_aligned=True),
            {"naive": naive.dat.deformable_attention},
            draw,
            floors.deformable_attention(
                setup.batch,
                side,
                side,
                heads,
                32,
                49,
                heads * (2 * side - 1) ** 2,
                setup.dtype.itemsize,
            ),
        )


# What the convolution is part of, side, channels, kernel and what is done to its result.
DEPTHWISE: tuple[tuple[str, int, int, int, dict[str, Any]], ...] = (
    ("ConvGLU", 56, 384, 3, {"activation": "gelu"}),
    ("ConvGLU", 14, 768, 3, {"activation": "gelu"}),
    ("DAT++ MLP", 56, 256, 3, {"activation": "gelu", "residual": True}),
    ("EfficientMod context", 56, 32, 7, {"activation": "gelu"}),
    ("CloFormer q, k, v", 28, 96, 5, {}),
    ("CloFormer q, k, v", 14, 192, 7, {}),
)


def depthwise(setup: Setup) -> Iterator[Case]:
    """Between two linear layers, so channels last in and out; ConvGLU's is gated."""
    for what, side, channels, kernel, options in DEPTHWISE:
        gated = what == "ConvGLU"

        def ours(
            x: Tensor,
            weight: Tensor,
            bias: Tensor,
            gate: Tensor | None = None,
            options: dict[str, Any] = options,
        ) -> Tensor:
            return depthwise_convolution(x, weight, bias, gate=gate, **options)

        def draw(
            side: int = side, channels: int = channels, kernel: int = kernel, gated: bool = gated
        ) -> tuple[Any, ...]:
            features = setup.normal(setup.batch, side, side, (1 + gated) * channels)
            x, *gate = features.split(channels, -1)
            weight, bias = setup.normal(channels, 1, kernel, kernel), setup.normal(channels)
            return x, weight / kernel, bias, *gate

        yield Case(
            "depthwise convolution",
            f"{what}: {side}², {channels} channels, {kernel} × {kernel}",
            ours,
            {"naive": partial(naive.depthwise.depthwise_convolution, **options)},
            draw,
            floors.depthwise_convolution(
                setup.batch, side, side, channels, kernel, setup.dtype.itemsize, gated=gated
            ),
        )


def focal(setup: Setup) -> Iterator[Case]:
    """FocalNet-tiny-lrf between its two linear layers: three levels and the global context."""
    kernels = (3, 5, 7)

    def copied(context: Tensor, gates: Tensor, *weights: Tensor) -> Tensor:
        context, gates = (t.permute(0, 3, 1, 2).contiguous() for t in (context, gates))
        out = naive.focalnet.aggregation(context, gates, *weights)
        return out.permute(0, 2, 3, 1).contiguous()

    for side, channels in zip(SIDES, (96, 192, 384, 768), strict=True):

        def draw(side: int = side, channels: int = channels) -> tuple[Any, ...]:
            features = setup.normal(setup.batch, side, side, 2 * channels + 4)
            _, context, gates = features.split((channels, channels, 4), -1)
            return context, gates, *(setup.normal(channels, 1, k, k) / k for k in kernels)

        yield Case(
            "focal aggregation",
            f"{side}², {channels} channels, 3 levels",
            focal_aggregation,
            {"naive": copied},
            draw,
            floors.focal_aggregation(
                setup.batch, side, side, channels, kernels, setup.dtype.itemsize
            ),
        )


def gated(setup: Setup) -> Iterator[Case]:
    """EfficientMod-xxs, blocks of ratio 6."""
    for side, channels in zip(SIDES, (32, 64, 128, 256), strict=True):

        def draw(side: int = side, channels: int = channels) -> tuple[Any, ...]:
            features = setup.normal(setup.batch, side, side, 6 * channels)
            return features, setup.normal(setup.batch, side, side, channels), "gelu"

        yield Case(
            "gated product",
            f"{side}², {channels} channels × 6",
            gated_product,
            {"naive": naive.efficientmod.gated_product},
            draw,
            floors.gated_product(setup.batch, side, side, channels, 6, setup.dtype.itemsize),
        )


OPERATORS = {
    "aggregated": aggregated,
    "neighborhood": neighborhood,
    "deformable": deformable,
    "depthwise": depthwise,
    "focal": focal,
    "gated": gated,
}


def chosen_backend(case: Case, inputs: tuple[Any, ...]) -> str:
    """What really ran: "triton" or "onednn" if a kernel of ours or its function was called."""
    with (
        mock.patch.object(launch, "run", side_effect=launch.run) as run,
        mock.patch.object(onednn, "depthwise", side_effect=onednn.depthwise) as fused,
    ):
        case.ours(*inputs)
    if run.called:
        return "triton"
    return "onednn" if fused.called else "plain"


def in_plain_form(call: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def plain(*args: Any) -> Tensor:
        with use_backend("reference"):
            return call(*args)

    return plain


def with_gradients(call: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """Forward and backward: the gradients of all tensors at the top level of the arguments."""

    def both(*args: Any) -> tuple[Tensor, ...]:
        leaves = [
            a.detach().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
            for a in args
        ]
        out = call(*leaves)
        wanted = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        cotangent = torch.ones_like(out) * torch.linspace(-1, 1, out.shape[-1]).to(out)
        found = torch.autograd.grad(out, wanted, cotangent, allow_unused=True)
        return tuple(gradient for gradient in found if gradient is not None)

    return both


def measured(
    case: Case, setup: Setup, effort: timing.Effort, ceilings: floors.Ceilings, *, train: bool
) -> Result:
    """One case, forward in inference, or forward and backward."""
    torch.manual_seed(0)
    inputs = [case.draw() for _ in range(timing.NUM_INPUTS)]
    contestants: dict[str, Callable[..., Any]] = {"ours": case.ours, **case.others}
    with nullcontext() if train else torch.inference_mode():
        backend = chosen_backend(case, inputs[0])
        if backend != "plain":
            contestants["plain"] = in_plain_form(case.ours)
        if train:
            contestants = {name: with_gradients(call) for name, call in contestants.items()}
        tolerance = timing.TOLERANCES[setup.dtype]
        race = timing.race(contestants, inputs, setup.device, effort, tolerance=tolerance)
    floor = case.cost.milliseconds(ceilings)
    return Result(
        case.operator,
        case.size,
        backend,
        race,
        floor,
        100 * floor / race.milliseconds["ours"].median,
        case.cost.bytes,
        case.cost.matrix + case.cost.vector,
    )


def page(
    results: list[Result],
    ceilings: floors.Ceilings,
    hardware: dict[str, Any],
    args: argparse.Namespace,
) -> str:
    """The table and what it was measured with."""
    against_plain = any("plain" in result.race.times_faster for result in results)
    columns = ["operator", "size", "backend", "ours, ms", "× faster than naive"]
    columns += ["× faster than plain"] * against_plain + ["A/A", "floor, ms", "% of floor"]
    rows = []
    for result in results:
        race = result.race
        ratios = [timing.ratio(race, n) for n in ("naive", "plain") if n in race.times_faster]
        ratios += ["–"] * (against_plain and "plain" not in race.times_faster)
        floor = ["–", "–"] if args.train else [f"{result.floor_ms:.3f}"]
        floor += [] if args.train else [f"{result.percent_of_floor:.0f}"]
        ours = f"{race.milliseconds['ours'].median:.3f}"
        row = [result.operator, result.size, result.backend, ours, *ratios]
        rows.append([*row, f"{race.noise:.2f}", *floor])
    mode = "forward and backward" if args.train else "forward, inference mode"
    return "\n".join(
        [
            f"# Operators: {mode}, batch {args.batch}, {args.dtype}\n",
            timing.table(columns, rows),
            "",
            "Ratios are medians of the rounds' ratios with p10–p90, above 1 where ours is faster; "
            "≈ where A/A, ours against itself in the same rounds, spreads as far. The floor is the "
            f"largest of bytes over copy speed ({ceilings.bytes_per_second / 1e9:.1f} GB/s), "
            "products over matrix speed "
            f"({ceilings.matrix_flops / 1e9:.0f} GFLOP/s) and the rest over float32 speed "
            f"({ceilings.vector_flops / 1e9:.0f} GFLOP/s), all measured before; what fits into a "
            "cache can be faster than it.\n",
            timing.described(hardware),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("operators", nargs="*", metavar="OPERATOR", help=", ".join(OPERATORS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="on a CPU")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=8.0, help="of rounds, each case")
    parser.add_argument("--train", action="store_true", help="forward and backward")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_intermixed_args()
    unknown = set(args.operators) - set(OPERATORS)
    if unknown:
        parser.error(f"no operator {sorted(unknown)}: choose from {', '.join(OPERATORS)}")
    torch.set_num_threads(args.threads)
    setup = Setup(args.batch, getattr(torch, args.dtype), torch.device(args.device))
    hardware = timing.hardware(setup.device)
    effort = timing.Effort(args.rounds, args.seconds, sample_ms=20 if args.device != "cpu" else 5)
    ceilings = floors.measure(setup.device, setup.dtype)
    results = []
    for name in args.operators or OPERATORS:
        for case in OPERATORS[name](setup):
            results.append(measured(case, setup, effort, ceilings, train=args.train))
            race = results[-1].race
            print(
                f"{case.operator}, {case.size}: {race.milliseconds['ours'].median:.3f} ms, "
                f"{timing.ratio(race, 'naive')} times faster than naive",
                flush=True,
            )
    text = page(results, ceilings, hardware, args)
    settings = {k: v for k, v in vars(args).items() if k != "output"}
    record = {
        "hardware": hardware,
        "settings": settings,
        "ceilings": ceilings,
        "results": results,
    }
    timing.write(args.output, record, text)
    print(f"\n{text}\nWritten to {args.output} and {args.output.with_suffix('.md')}.")


if __name__ == "__main__":
    main()
