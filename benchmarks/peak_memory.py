"""Memory of one 1024 × 1024 image above the bare imports, eager on a CPU, a fresh process each.

python benchmarks/peak_memory.py [NAME…]     # default: every tiny, micro and xxs network
"""

import subprocess
import sys

import foveal

MEASURE = """
import resource, sys, time, torch, timm, foveal
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = foveal.create_model(sys.argv[1]).eval()
start = time.perf_counter()
with torch.inference_mode():
    model(torch.randn(1, 3, 1024, 1024))
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(used / 2**20, time.perf_counter() - start)
"""


def main() -> None:
    small = [n for n in foveal.list_models() if any(s in n for s in ("tiny", "micro", "xxs"))]
    print("| network | peak, GiB | seconds |\n|---|---|---|")
    for name in sys.argv[1:] or small:
        run = [sys.executable, "-c", MEASURE, name]
        output = subprocess.run(run, capture_output=True, text=True, check=True).stdout
        gib, seconds = map(float, output.split())
        print(f"| {name} | {gib:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
