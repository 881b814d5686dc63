"""The five families and their peers on small photographs: one recipe, one seed, one table.

python benchmarks/small_images.py images --parquet tiny-imagenet-100 --classes 50 --images DIR
python benchmarks/small_images.py train --images DIR --output RUNS --epochs 8 --cpu
python benchmarks/small_images.py table --images DIR --output RUNS

`images` writes every n-th class of parquet files (columns `image`, `label`; `classes.json` beside
them) as folders. `train` goes on where it was stopped. On a CPU batches are small and nothing is
mixed, for so few epochs; without --cpu it is the recipe `small` as it stands.
"""

import argparse
import json
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import torch
from rich.progress import track
from torch.utils.flop_counter import FlopCounterMode

from foveal.recipes.catalogue import configure
from foveal.recipes.classification import ClassificationRun
from foveal.recipes.config import ClassificationConfig, DataConfig
from foveal.tools.evaluate import EvaluationSettings, evaluate_folder
from foveal.tools.trained import load_trained
from foveal.train.checkpoint import read_metadata

FAMILIES = ("focalnet_4m", "transnext_4m", "dat_pp_4m", "efficientmod_xxs", "cloformer_xxs")
PEERS = ("timm:convnext_atto", "timm:pvt_v2_b0", "timm:mobilenetv3_small_100")
RESULTS = Path(__file__).parent / "results" / "small_images.md"


def write_images(parquet: Path, classes: int, images: Path) -> None:
    known = json.loads((parquet / "classes.json").read_text())
    every = len(known) // classes
    names = {c["index"]: c["name"].replace("/", "_") for c in known if c["index"] % every == 0}
    for split, pattern in (("train", "train-*"), ("val", "validation-*")):
        for file in track(sorted(parquet.glob(pattern)), description=split):
            table = pq.read_table(file)
            rows = zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)
            for row, (image, label) in enumerate(rows):
                if label in names:
                    folder = images / split / names[label]
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / f"{file.stem[-14:-9]}_{row:05d}.webp").write_bytes(image["bytes"])


def config_of(network: str, args: argparse.Namespace) -> ClassificationConfig:
    config = configure("small", network)
    train = replace(config.train, epochs=args.epochs, seed=args.seed, channels_last=True)
    mixing = config.mixing
    if args.cpu:
        train = replace(train, batch_size=64, lr=1e-3, workers=0, threads=1, checkpoint_every=200)
        mixing = replace(mixing, probability=0.0)
    else:
        train = replace(train, mixed_precision="bf16", workers=args.workers)
    options = dict(config.options)
    if args.stem_stride and not network.startswith("timm:"):
        options["stem_stride"] = args.stem_stride
    data = DataConfig(path=str(args.images))
    return replace(config, options=options, data=data, train=train, mixing=mixing)


def folder_of(network: str, args: argparse.Namespace) -> Path:
    seed = f"_seed{args.seed}" if args.seed else ""
    return args.output / (network.removeprefix("timm:") + seed)


def train(args: argparse.Namespace) -> None:
    for network in args.models:
        run = ClassificationRun(config_of(network, args), folder_of(network, args), resume=True)
        if not run.fit().finished:
            return


def rows(args: argparse.Namespace) -> Iterator[str]:
    for network in args.models:
        folder = folder_of(network, args)
        if not (folder / "last.safetensors").exists():
            continue
        trained = load_trained(folder / "last.safetensors")
        side = trained.card.preprocessing.image_size
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            trained.model(torch.zeros(1, 3, side, side))
        found = evaluate_folder(trained, args.images, settings=EvaluationSettings(batch_size=64))
        done = read_metadata(folder / "last.safetensors")
        parameters = sum(p.numel() for p in trained.model.parameters()) / 1e6
        yield (
            f"| {network} | {done['epoch']} | {found.result.top1:.2f} | {found.result.top5:.2f} | "
            f"{parameters:.2f} | {counter.get_total_flops() / 2e9:.3f} | "
            f"{found.cost.images_per_second:.0f} |"
        )


def write_table(args: argparse.Namespace) -> None:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    ).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "timm"))
    classes = len(list((args.images / "val").iterdir()))
    text = [
        "# Small photographs",
        "",
        f"{classes} classes of Tiny ImageNet, 64 × 64 pixels, 500 training images a class, judged "
        f"by 50 validation images of each after the last epoch; recipe `small`, seed {args.seed}.",
        "",
        "| network | epochs | top-1 % | top-5 % | parameters (M) | multiply-adds (G) | images/s |",
        "|---|---|---|---|---|---|---|",
        *rows(args),
        "",
        "Multiply-adds: half of what torch.utils.flop_counter counts for one image. Images/s: the "
        f"model alone, forward, batches of 64, {device} ({platform.machine()}, "
        f"{torch.get_num_threads()} threads), {versions}, commit {commit}.",
        "",
        "Command: `python benchmarks/small_images.py train` and `table`, as its first lines say"
        + (" (`--cpu`: batches of 64, lr 1e-3, nothing mixed, one thread)." if args.cpu else "."),
    ]
    RESULTS.write_text("\n".join(text) + "\n")
    print("\n".join(text))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["images", "train", "table"])
    parser.add_argument("--parquet", type=Path)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--models", nargs="+", default=[*FAMILIES, *PEERS])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--stem-stride", type=int)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    if args.step == "images":
        write_images(args.parquet, args.classes, args.images)
    elif args.step == "train":
        train(args)
    else:
        write_table(args)


if __name__ == "__main__":
    main()
