"""Every kernel compiles for Ampere and Hopper: nothing spilled, wide loads where they are due."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.kernels.launches import WIDE


def test_every_kernel_compiles_without_spilling():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).with_name("offline.py")), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {one["capability"] for one in found} == {80, 90}
    assert not [one for one in found if one["spilled"]]
    assert {one["name"] for one in found} >= WIDE
    assert not [one for one in found if one["name"] in WIDE and one["widest_load"] < 128]
