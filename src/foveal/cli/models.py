"""`foveal models`: what there is."""

from argparse import Namespace
from dataclasses import asdict, dataclass

from jsonargparse import ArgumentParser

from foveal.cli.console import show_table, write_json
from foveal.errors import FovealError, closest
from foveal.models.factory import create_model, list_models
from foveal.models.weights import WEIGHTS

SUMMARY = "list the networks"


@dataclass(frozen=True)
class ModelRow:
    """One network; `top1` is what its authors published, and `downloads` are tags of weights."""

    name: str
    parameters_m: float
    input_size: int
    top1: float | None
    downloads: tuple[str, ...]


def add_arguments(parser: ArgumentParser) -> None:
    """The command's flags."""
    parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="part of a name, or transnext_*"
    )
    parser.add_argument("--json", metavar="FILE", help="write to FILE, or - for standard output")


def run(options: Namespace) -> None:
    """List the networks that match."""
    rows = [describe(name) for name in matching(options.pattern)]
    if options.json is not None:
        write_json(options.json, [asdict(row) for row in rows])
    if options.json == "-":
        return
    header = ("model", "parameters (M)", "input size", "published top-1 %", "--pretrained")
    show_table(header, [_cells(row) for row in rows])


def matching(pattern: str) -> list[str]:
    """Names that match; a pattern without wildcards matches anywhere in the name.

    Raises:
        FovealError: none does.
    """
    wild = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    names = list_models(wild)
    if not names:
        raise FovealError(
            f"No model matches {pattern!r}.{closest(pattern, list_models())} "
            "`foveal models` lists all."
        )
    return names


def describe(name: str) -> ModelRow:
    """A network's row; nothing is allocated."""
    model = create_model(name, device="meta")
    records = WEIGHTS.get(name, ())
    first = records[0] if records else None
    return ModelRow(
        name=name,
        parameters_m=round(sum(p.numel() for p in model.parameters()) / 1e6, 2),
        input_size=first.input_size if first else 224,
        top1=next((w.top1 for w in records if w.top1 is not None), None),
        downloads=tuple(w.tag for w in records if w.url),
    )


def _cells(row: ModelRow) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.parameters_m:.2f}",
        str(row.input_size),
        "–" if row.top1 is None else f"{row.top1:.1f}",
        ", ".join(row.downloads) or "no direct link",
    )
