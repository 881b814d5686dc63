"""The shapes that signatures promise, checked at run time in a process of their own."""

import subprocess
import sys

CHECK = """
import tests.typechecker
from jaxtyping import install_import_hook

with install_import_hook("foveal", "tests.typechecker.check"):
    import foveal
import torch
from tests.models.families import SHALLOW, shallow

for name in SHALLOW:
    for size in ((64, 96), (33, 50)):
        model = shallow(name)
        with torch.no_grad():
            model(torch.randn(2, 3, *size))
            model.forward_intermediates(torch.randn(2, 3, *size))
try:
    foveal.mixers.FocalModulation(8)(torch.randn(8, 4, 4))
except Exception as error:
    print(type(error).__name__)
"""


def test_every_family_keeps_its_promises() -> None:
    run = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "TypeCheckError", "a map without batch went through"
