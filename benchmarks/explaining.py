"""How long `foveal explain` takes on three photographs with all five families, and its page's size.

python benchmarks/explaining.py [--output benchmarks/results/explaining.json]
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import timing
from foveal.data.photographs import load_photographs

RESULTS = Path(__file__).parent / "results" / "explaining.json"
MODELS = "focalnet_tiny_srf,transnext_micro,cloformer_xxs,dat_tiny,dat_pp_tiny,efficientmod_xxs"
# What is asked for beside the readings and the class activation maps.
VARIANTS = {
    "readings and class activation": [],
    "and insertion and deletion": ["--faithful"],
    "and receptive fields": ["--erf"],
}


def measure(photos: list[Path], flags: list[str]) -> dict[str, float]:
    """Seconds from the command to the page, imports included, and the page's size in MB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "foveal.cli.main", "explain", *map(str, photos)]
        start = time.perf_counter()
        run = [*command, "--models", MODELS, "--output", folder, *flags]
        subprocess.run(run, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "mb": (Path(folder) / "index.html").stat().st_size / 1e6}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    found = timing.hardware(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        photos = []
        for photograph in load_photographs()[:3]:
            photos.append(Path(folder) / f"{photograph.name}.png")
            photograph.image.save(photos[-1])
        results = {name: measure(photos, flags) for name, flags in VARIANTS.items()}
    rows = [[n, f"{r['seconds']:.0f} s", f"{r['mb']:.1f} MB"] for n, r in results.items()]
    text = (
        "# Explaining\n\n"
        f"{len(photos)} photographs, {MODELS.count(',') + 1} networks at 224 pixels "
        f"({MODELS.replace(',', ', ')}), each row a run of its own, "
        "`python benchmarks/explaining.py`.\n\n"
        f"{timing.table(['`foveal explain`', 'time', 'page'], rows)}\n\n{timing.described(found)}\n"
    )
    timing.write(options.output, {"hardware": found, "results": results}, text)
    print(text)
