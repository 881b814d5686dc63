"""A run that is killed at any moment and resumed ends as the unbroken one does, bit for bit."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.utils import load
from safetensors.torch import load_file

from foveal.cli.main import main
from foveal.train.state import save_state
from tests.pictures import write_folder

EVERY, STEPS = 3, 24
SETTINGS = [
    *("--recipe=small", "--model=efficientmod_xxs", "--option=embed_dim=[8,8,16,16]"),
    *("--option=depths=[1,1,1,1]", "--option=attention_depth=[0,0,0,1]", "--drop-path-rate=0.3"),
    *("--image-size=32", "--epochs=4", "--batch-size=4", "--lr=3e-3", "--workers=1"),
    *("--ema-decay=0.9", f"--checkpoint-every={EVERY}", "--held-out=0.2", "--threads=1"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def unbroken(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unbroken") / "run"
    assert main(command(folder, output)) == 0
    return output


def command(folder: Path, output: Path) -> list[str]:
    return ["train", *SETTINGS, f"--data={folder}", f"--output={output}", "--resume"]


def steps(output: Path) -> list[int]:
    """The steps of metrics.jsonl; a line that the kill cut short does not count."""
    path = output / "metrics.jsonl"
    if not path.exists():
        return []
    whole = path.read_text().split("\n")[:-1]
    return [json.loads(line)["step"] for line in whole]


def kill_at(folder: Path, output: Path, step: int, delay: float) -> None:
    """Start the run and kill it `delay` seconds after a step, with all of its processes."""
    argv = [sys.executable, "-m", "foveal.cli.main", *command(folder, output)]
    run = subprocess.Popen(argv, start_new_session=True, stderr=subprocess.DEVNULL)
    while run.poll() is None and (steps(output) or [0])[-1] < step:
        time.sleep(0.002)
    time.sleep(delay)
    assert run.poll() is None, "the run ended before it could be killed"
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(root / "last.safetensors") for root in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def check_kill(folder: Path, unbroken: Path, output: Path, seed: int) -> None:
    draw = random.Random(seed)
    kill_at(folder, output, draw.randrange(1, STEPS - 2), draw.uniform(0, 0.05))
    reached = steps(output)[-1]
    saved = sorted((output / "state").glob("step_*"))
    assert reached - (int(saved[-1].name[5:]) if saved else 0) <= EVERY
    assert main(command(folder, output)) == 0
    assert steps(output) == list(range(1, STEPS + 1))
    assert same(unbroken, output)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_and_resumed(folder: Path, unbroken: Path, tmp_path: Path, seed: int) -> None:
    assert len(steps(unbroken)) == STEPS
    check_kill(folder, unbroken, tmp_path / "run", seed)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(100, 120))
def test_killed_at_twenty_moments(folder: Path, unbroken: Path, tmp_path: Path, seed: int) -> None:
    check_kill(folder, unbroken, tmp_path / "run", seed)


def forget_random_numbers(state: Path) -> None:
    # Without the file there is no going on at all.
    saved = load(state / "random_states_0.pkl")
    others = torch.Generator().manual_seed(12345).get_state()
    torch.save({**saved, "torch_manual_seed": others}, state / "random_states_0.pkl")


def forget_the_place_in_the_data(state: Path) -> None:
    (state / "loader_0.pt").unlink()
    saved = torch.load(state / "custom_checkpoint_0.pkl", weights_only=True)
    torch.save({**saved, "batch": 0}, state / "custom_checkpoint_0.pkl")


def forget_the_average(state: Path) -> None:
    average = torch.load(state / "custom_checkpoint_1.pkl", weights_only=True)
    zeros = {key: torch.zeros_like(value) for key, value in average.items()}
    torch.save(zeros, state / "custom_checkpoint_1.pkl")


@pytest.fixture(scope="module")
def stopped(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in mid-epoch."""
    output = tmp_path_factory.mktemp("stopped") / "run"
    kill_at(folder, output, 10, 0)
    return output


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "forget", [None, forget_random_numbers, forget_the_place_in_the_data, forget_the_average]
)
def test_what_is_not_restored_shows(
    folder: Path,
    unbroken: Path,
    stopped: Path,
    tmp_path: Path,
    forget: Callable[[Path], None] | None,
) -> None:
    output = tmp_path / "run"
    shutil.copytree(stopped, output)
    if forget is not None:
        forget(sorted((output / "state").glob("step_*"))[-1])
    assert main(command(folder, output)) == 0
    assert same(unbroken, output) == (forget is None)


@pytest.mark.timeout(300)
def test_sigterm_to_all_processes_saves_the_run(
    folder: Path, unbroken: Path, tmp_path: Path
) -> None:
    """A scheduler sends it to the loader's workers, too."""
    output = tmp_path / "run"
    argv = [sys.executable, "-m", "foveal.cli.main", *command(folder, output)]
    run = subprocess.Popen(argv, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not steps(output):
        time.sleep(0.002)
    os.killpg(run.pid, signal.SIGTERM)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 0 and "Asked to stop after step" in said, said
    assert steps(output)[-1] < STEPS
    assert main(command(folder, output)) == 0
    assert steps(output) == list(range(1, STEPS + 1)) and same(unbroken, output)


@pytest.mark.timeout(300)
def test_a_stream_goes_on_where_it_was(folder: Path, tmp_path: Path) -> None:
    items = [(file, file.parent.name) for file in sorted(folder.rglob("*.png"))]
    shards = as_parquet(items, tmp_path / "shards")
    streaming = [f"--data={shards}", "--streaming", "--batch-size=3"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*command(folder, whole), *streaming]) == 0
    argv = [*command(folder, broken), *streaming]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foveal.train.loop.save_state", stop_after(10, broken))
        assert main(argv) == 130
    assert 0 < steps(broken)[-1] < steps(whole)[-1]
    assert main(argv) == 0
    assert steps(broken) == steps(whole) and same(whole, broken)


def as_parquet(items: list[tuple[Path, str]], root: Path) -> Path:
    """Two files with the columns that Hugging Face's have."""
    root.mkdir()
    for number in (0, 1):
        rows = items[number::2]
        table = {
            "image": [{"bytes": file.read_bytes(), "path": file.name} for file, _ in rows],
            "label": [label for _, label in rows],
        }
        pq.write_table(pa.table(table), root / f"train-{number}.parquet")
    return root


def stop_after(step: int, output: Path) -> Callable[..., None]:
    """Save states as ever, and be interrupted at the first that is saved after a step."""

    def save(*args: Any) -> None:
        save_state(*args)
        if steps(output)[-1] >= step:
            raise KeyboardInterrupt

    return save
