"""Two processes train detectors and segmenters, also by images on which there is nothing."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.train.dense_ranks import OPTIONS

pytest.importorskip("transformers")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("head", OPTIONS)
def test_both_processes_come_to_the_same(head: str, tmp_path: Path) -> None:
    """Finite losses of their own, the same weights, and the figures of all images together."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    argv = [sys.executable, *torchrun, "-m", "tests.train.dense_ranks", head, str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        argv, capture_output=True, text=True, timeout=240, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert len(first["losses"]) == len(second["losses"]) == 6
    assert all(map(math.isfinite, [*first["losses"], *second["losses"]]))
    assert first["losses"] != second["losses"]
    assert first["scores"] == second["scores"] and first["scores"]
    for name, value in first["sums"].items():
        # Running averages of norms are each process's own.
        if "running_" not in name and "num_batches" not in name:
            assert second["sums"][name] == value, name
