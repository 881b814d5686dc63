"""Ctrl-C at any moment: one line, exit code 130."""

import os
import signal
import subprocess
import sys
import time

import pytest

from foveal.cli.interruption import interruptible
from tests.cli.conftest import Foveal

# The command, interrupted as it imports a module.
AT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["foveal", "models"]
import foveal_command

sys.exit(foveal_command.main())
"""


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C, also where a shell has begun the tests in the background, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("module", ["torch", "foveal.cli.main"])
def test_before_anything_is_begun(module: str):
    code = [sys.executable, "-c", AT.format(module=module)]
    ended = subprocess.run(code, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "Stopped.\n")


def test_while_a_command_works(foveal: Foveal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "foveal.cli.models.run",
        lambda options: os.kill(os.getpid(), signal.SIGINT) or time.sleep(9),
    )
    assert foveal("models") == (130, "", "Stopped.\n")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_while_an_object_is_put_away(capfd: pytest.CaptureFixture[str]):
    class Loader:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), interruptible():
        loader = Loader()
        del loader
        time.sleep(9)
    assert capfd.readouterr().err == "" and sys.unraisablehook is hook


def test_what_is_half_made_is_put_away_unheard(capfd: pytest.CaptureFixture[str]):
    class Loader:
        def __init__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(9)
            self.workers = ()

        def __del__(self) -> None:
            assert self.workers is not None

    with pytest.raises(KeyboardInterrupt), interruptible():
        Loader()
    assert capfd.readouterr().err == ""


def test_a_forked_worker_leaves_it_to_the_process_that_it_serves():
    with interruptible():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
