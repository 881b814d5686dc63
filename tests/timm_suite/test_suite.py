"""timm's own test functions, from its source distribution, on Foveal's networks.

Nothing of timm's tests is kept here: the source distribution of the installed version is fetched
into a temporary folder. Where the package index cannot be reached the test is skipped, visibly.
"""

import os
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

import foveal

FUNCTIONS = (
    "test_model_forward",
    "test_model_backward",
    "test_model_default_cfgs",
    "test_model_forward_features",
    "test_model_forward_intermediates_features",
    "test_model_forward_intermediates",
)
# Up to base size: the large, xlarge and huge FocalNets differ in width and depth alone.
NAMES = [n for n in foveal.list_models() if not any(s in n for s in ("large", "huge"))]


@pytest.fixture(scope="session")
def timm_tests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timm")
    requirement = f"timm=={version('timm')}"
    arguments = ["download", "--quiet", "--no-deps", "--no-binary=timm"]
    fetched = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--dest", str(folder), requirement],
        capture_output=True,
        text=True,
        check=False,
    )
    archives = sorted(folder.glob("timm-*.tar.gz"))
    if not archives:
        pytest.skip(f"timm's source distribution could not be fetched: {fetched.stderr[-300:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    # Beside timm's own package marker it would be `tests.test_models`, a name that is ours.
    return next(folder.glob("timm-*/tests/test_models.py")).rename(folder / "test_models.py")


def run(timm_tests: Path, function: str, names: list[str]) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "FOVEAL_NAMES": ",".join(names), "TIMEOUT": "900"}
    environment["PYTHONPATH"] = str(root)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.timm_suite.names",
            "-p",
            "no:cacheprovider",
            "-q",
            "--noconftest",
            "--rootdir",
            str(timm_tests.parent),
            "-W",
            "ignore",
            f"{timm_tests}::{function}",
        ],
        cwd=timm_tests.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "name",
    ["focalnet_tiny_srf", "transnext_micro", "cloformer_xxs", "dat_pp_tiny", "efficientmod_xxs"],
)
def test_default_cfgs(timm_tests: Path, name: str) -> None:
    result = run(timm_tests, "test_model_default_cfgs", [name])
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert "1 passed" in result.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_all_up_to_base_size(timm_tests: Path, function: str) -> None:
    result = run(timm_tests, function, NAMES)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert f"{len(NAMES)} passed" in result.stdout
