"""Every kernel compiles for Ampere and Hopper: nothing spilled, wide loads where they are due."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.kernels.launches import WIDE

OTHER_TRITON = "3.6.0"


def judge(environment: dict[str, str]) -> None:
    environment = {k: v for k, v in environment.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("offline.py")), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {one["capability"] for one in found} == {80, 90}
    assert not [one for one in found if one["spilled"]]
    assert {one["name"] for one in found} >= WIDE
    assert not [one for one in found if one["name"] in WIDE and one["widest_load"] < 128]


def test_importing_foveal_imports_no_kernel():
    code = "import sys, foveal; print([m for m in sys.modules if m.startswith('foveal.kernels')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "foveal.kernels.aggregated_attention.fused" in done
    assert ".triton" not in done


def test_every_kernel_compiles_without_spilling():
    judge(dict(os.environ))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_kernel_compiles_with_another_triton(tmp_path: Path):
    """In a folder of its own before the installed one, as its tuning table has it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    wanted = f"triton=={OTHER_TRITON}"
    installed = subprocess.run(
        [*pip, "--target", str(tmp_path), wanted], capture_output=True, text=True, check=False
    )
    if installed.returncode:
        pytest.skip(f"{wanted} cannot be installed: {installed.stderr.strip()[-200:]}")
    # What another version compiled is of no use to this one.
    other = {"PYTHONPATH": str(tmp_path), "TRITON_CACHE_DIR": str(tmp_path / "cache")}
    judge({**os.environ, **other})
