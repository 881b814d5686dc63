"""A small run that the commands can be tried on."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from foveal.cli.main import main
from tests.pictures import write_folder

MODEL = "--model=focalnet_tiny_srf"
SMALL = [MODEL, "--option=embed_dim=16", "--option=depths=[1,1,1,1]"]
SHORT = [*SMALL, "--image-size=32", "--epochs=6", "--batch-size=9", "--lr=3e-3", "--workers=0"]


class Outcome(NamedTuple):
    """What a command line came to."""

    code: int
    out: str
    err: str


Foveal = Callable[..., Outcome]


@pytest.fixture
def foveal(capsys: pytest.CaptureFixture[str]) -> Foveal:
    """Runs a command line in this process."""

    def run(*argv: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in argv])
        shown = capsys.readouterr()
        return Outcome(code, str(shown.out), str(shown.err))

    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty pictures of three classes."""
    return write_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="session")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a training run on them."""
    output = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", *SHORT, "--data", str(folder), "--output", str(output)]) == 0
    return output
