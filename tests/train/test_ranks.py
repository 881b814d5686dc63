"""Two processes train as one run: the same files, resumed after a kill, to 1e-6."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foveal.tools.trained import load_trained
from tests.pictures import write_folder
from tests.train.test_kill import SETTINGS, steps

# Half the batch of the run on one process, so that an epoch has as many steps.
RANKS = [*SETTINGS, "--batch-size=2"]
STEPS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "pictures")


ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    "FSDP_MIN_NUM_PARAMS": "1000",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}


def launch(
    folder: Path, output: Path, *settings: str, extra: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    train = ["-m", "foveal.cli.main", "train", *RANKS, *settings]
    argv = [sys.executable, *torchrun, *train, f"--data={folder}", f"--output={output}", "--resume"]
    return subprocess.Popen(
        argv,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(ON_CPU if extra is None else extra)},
    )


def finish(run: subprocess.Popen[str]) -> str:
    _, error = run.communicate(timeout=300)
    assert run.returncode == 0, error
    return error


@pytest.fixture(scope="module")
def unbroken(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unbroken") / "run"
    said = finish(launch(folder, output))
    # Every process reads the data; one speaks and writes.
    assert said.count("on 24 images of 3 classes") == 1
    assert said.count("epoch 4/4") == 1
    assert steps(output) == list(range(1, STEPS + 1))
    return output


def check_kill(folder: Path, unbroken: Path, output: Path, seed: int) -> None:
    step = random.Random(seed).randrange(1, STEPS - 2)
    run = launch(folder, output)
    while run.poll() is None and (steps(output) or [0])[-1] < step:
        time.sleep(0.002)
    assert run.poll() is None, "the run ended before it could be killed"
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    kill_workers(output)
    finish(launch(folder, output))
    assert steps(output) == list(range(1, STEPS + 1))
    expected, got = (load_file(root / "last.safetensors") for root in (unbroken, output))
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-6, atol=1e-6)


def kill_workers(output: Path) -> None:
    """torchrun's workers are in sessions of their own."""
    subprocess.run(["pkill", "-9", "-f", str(output)], check=False)


@pytest.mark.timeout(600)
def test_two_processes_killed_and_resumed(folder: Path, unbroken: Path, tmp_path: Path) -> None:
    check_kill(folder, unbroken, tmp_path / "run", seed=1)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 105))
def test_two_processes_killed_at_five_moments(
    folder: Path, unbroken: Path, tmp_path: Path, seed: int
) -> None:
    check_kill(folder, unbroken, tmp_path / "run", seed)


@pytest.mark.timeout(600)
def test_sigterm_reaches_both_processes(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run = launch(folder, output, "--epochs=400")
    while run.poll() is None and (steps(output) or [0])[-1] < 3:
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGTERM)
    _, said = run.communicate(timeout=120)
    assert said.count("Asked to stop after step") == 1, said
    states = list((output / "state").glob("step_*"))
    assert len(states) == 1 and steps(output)[-1] == int(states[0].name[5:])


@pytest.mark.timeout(300)
def test_a_process_without_images_to_judge_by_holds_up_nobody(tmp_path: Path) -> None:
    """With buffers in the network, which DDP brings to all processes in its forward pass."""
    for part, per_class in (("train", 8), ("val", 1)):
        write_folder(tmp_path / "data" / part, per_class, start=10 * (part == "val"))
    network = ["--model=cloformer_xxs", "--option=depths=[1,1,1,1]", "--image-size=32"]
    settings = ["--batch-size=2", "--epochs=2", "--workers=0"]
    paths = [f"--data={tmp_path / 'data'}", f"--output={tmp_path / 'run'}"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    argv = [sys.executable, *torchrun, "-m", "foveal.cli.main", "train"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **ON_CPU}
    subprocess.run([*argv, *network, *settings, *paths], check=True, timeout=120, env=environment)
    judged = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert judged["epoch"] == 2 and judged["top1"] in (pytest.approx(100 * n / 3) for n in range(4))


needs_two_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="accelerate shards weights on GPUs alone; needs two"
)


@needs_two_gpus
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sharded_weights_are_written_whole_and_resumed(folder: Path, tmp_path: Path) -> None:
    """FSDP2, as `accelerate launch --use_fsdp --fsdp_version 2` asks for it."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    plain = ["--ema-decay=null"]
    finish(launch(folder, whole, *plain, extra=FSDP2))
    run = launch(folder, broken, *plain, extra=FSDP2)
    while run.poll() is None and (steps(broken) or [0])[-1] < 10:
        time.sleep(0.002)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    kill_workers(broken)
    finish(launch(folder, broken, *plain, extra=FSDP2))
    expected, got = (load_file(root / "last.safetensors") for root in (whole, broken))
    for key, value in expected.items():
        torch.testing.assert_close(got[key], value, rtol=1e-6, atol=1e-6)
    assert load_trained(broken).card.model == "efficientmod_xxs"


@needs_two_gpus
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_averages_and_shards_exclude_each_other(folder: Path, tmp_path: Path) -> None:
    run = launch(folder, tmp_path / "run", extra=FSDP2)
    _, said = run.communicate(timeout=300)
    assert run.returncode != 0 and "leave ema_decay out" in said
