"""`foveal bench`: tables, files, the picture, interruptions, and what it refuses."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import foveal.cli.bench as command
from foveal.cli.bench import latency_table
from foveal.tools.latency import run
from foveal.tools.latency.spread import Spread
from foveal.tools.latency.table import LatencyRow, LatencyTable
from tests.cli.conftest import Foveal
from tests.models.families import shallow

QUICK = ["--models=efficientmod_xxs", "--image-size=32", "--threads=1", "--runs=3"]
EAGER = "--engines=eager"
LEAST: dict[str, Any] = {"depths": (1, 1, 1, 0), "attention_depth": (0, 0, 0, 1)}
FORMATS = ("json", "csv", "markdown")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of ours are shallow here; those of timm are themselves."""
    create = run.create_model
    monkeypatch.setattr(
        run, "create_model", lambda name: create(name) if ":" in name else shallow(name, **LEAST)
    )


def row(model: str, engine: str, ms: float, **more: Any) -> LatencyRow:
    """A row as a measurement leaves it."""
    given = {
        "image_size": 224,
        "batch": 1,
        "parameters": 4_740_000,
        "gflop": 1.16,
        "file_mb": 18.95,
        "top1": 77.1,
        "latency_ms": ms,
        "milliseconds": Spread(ms, ms - 1, ms + 1, 5),
        "ratio": ms / 20,
        "beyond_noise": ms != 20,
    }
    return LatencyRow(model=model, engine=engine, **{**given, **more})


@pytest.fixture
def measured() -> LatencyTable:
    """A measurement that went well."""
    rows = (
        row("efficientmod_xxs", "eager", 20.0),
        row("efficientmod_xxs", "onnx", 10.0),
        row("timm:repvit_m1_0", "eager", 30.0, top1=80.0),
        row("timm:resnet10t", "eager", 15.0, top1=None),
    )
    return LatencyTable(
        "sound",
        {"batch": 1, "threads": 2, "runs": 5},
        run.hardware(torch.device("cpu")),
        rows,
        Spread(1.0, 0.97, 1.04, 5),
        rounds=5,
        complete=True,
    )


def growing(*tables: LatencyTable, stop: bool = False) -> Any:
    """A measurement that yields these, and is then interrupted or not."""

    def measure(*_: Any) -> Iterator[LatencyTable]:
        yield from tables
        if stop:
            raise KeyboardInterrupt

    return measure


def test_our_network_beside_timms_in_every_format(foveal: Foveal, tmp_path: Path) -> None:
    files = {name: tmp_path / f"latency.{name}" for name in FORMATS}
    done = foveal(
        "bench",
        "--models=efficientmod_xxs,timm:test_resnet",
        "--engines=eager,prepared,cuda" if not torch.cuda.is_available() else "--engines=eager",
        *QUICK[1:],
        *(f"--{name}={path}" for name, path in files.items()),
        f"--plot={tmp_path / 'latency.svg'}",
    )
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].startswith("model\tengine\timage size\t")
    plain = json.loads(files["json"].read_text())
    assert plain["complete"] is True and plain["rounds"] == 3
    assert plain["settings"]["models"] == ["efficientmod_xxs", "timm:test_resnet"]
    assert plain["hardware"]["torch"] and "commit" in plain["hardware"]
    rows = list(csv.DictReader(files["csv"].open()))
    assert [r["model"] for r in rows] == [r["model"] for r in plain["rows"]]
    assert float(rows[0]["× first"]) == 1 and float(rows[-1]["parameters (M)"]) > 0
    markdown = files["markdown"].read_text()
    assert markdown.startswith("### Latency: batch 1, 1 thread, median of 3 paired rounds")
    assert "Noise floor" in markdown and "Noise floor" in done.out
    if not torch.cuda.is_available():
        assert "no CUDA device" in rows[2]["remarks"] and rows[2]["latency ms"] == ""
        assert done.out.count("no CUDA device") == 2
    assert "<svg" in (tmp_path / "latency.svg").read_text()


def test_the_papers_protocol_has_means_and_no_noise_floor(foveal: Foveal) -> None:
    done = foveal("bench", *QUICK, EAGER, "--protocol=efficientmod", "--markdown=-")
    assert done.code == 0 and done.out.startswith("### Latency: batch 1, 1 thread, mean of 3 runs")
    assert "Noise floor" not in done.out


def test_the_picture_has_what_is_known(measured: LatencyTable, tmp_path: Path) -> None:
    from foveal.tools.latency.plot import plot_latency

    assert plot_latency(measured, tmp_path / "a.svg") == 3
    text = (tmp_path / "a.svg").read_text()
    for word in ("efficientmod_xxs", "repvit_m1_0", "onnx", "milliseconds per image"):
        assert f"<!-- {word}" in text
    assert "resnet10t" not in text
    assert plot_latency(replace(measured, rows=()), tmp_path / "b.png") == 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_picture_leaves_out_is_said(
    foveal: Foveal, measured: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure_latency", growing(measured))
    done = foveal("bench", *QUICK, f"--plot={tmp_path / 'a.png'}")
    assert done.code == 0 and "shows 3 of 4 rows" in done.err


def test_an_interruption_keeps_the_rows_that_are_done(
    foveal: Foveal, measured: LatencyTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = replace(measured, rows=measured.rows[:1], noise=None, rounds=0, complete=False)
    halfway = replace(measured, rows=measured.rows[:2], rounds=4, complete=False)
    monkeypatch.setattr(command, "measure_latency", growing(begun, halfway, stop=True))
    files = {name: tmp_path / f"latency.{name}" for name in FORMATS}
    flags = [f"--{name}={path}" for name, path in files.items()]
    stopped = foveal("bench", *QUICK, "--engines=eager,onnx,openvino", *flags)
    assert stopped.code == 130
    assert "Stopped with 2 of 3 rows timed, 4 of 3 rounds" in stopped.err
    assert f"{files['json']} and {files['csv']} and {files['markdown']} keep them" in stopped.err
    assert "efficientmod_xxs\tonnx" in stopped.out
    plain = json.loads(files["json"].read_text())
    assert plain["complete"] is False and [r["engine"] for r in plain["rows"]] == ["eager", "onnx"]
    assert len(list(csv.DictReader(files["csv"].open()))) == 2
    assert "| onnx |" in files["markdown"].read_text()


def test_files_are_there_after_every_row(
    foveal: Foveal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "latency.json"
    seen = []

    def measure(*given: Any) -> Iterator[LatencyTable]:
        for table in run.measure_latency(*given):
            yield table
            seen.append(len(json.loads(file.read_text())["rows"]))

    monkeypatch.setattr(command, "measure_latency", measure)
    assert foveal("bench", *QUICK, "--engines=eager,prepared", f"--json={file}").code == 0
    assert seen[:2] == [1, 2]


def test_an_interruption_before_the_first_row_leaves_nothing(
    foveal: Foveal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure_latency", growing(stop=True))
    stopped = foveal("bench", *QUICK, f"--json={tmp_path / 'a.json'}")
    assert stopped == (130, "", "Stopped.\n") and not list(tmp_path.iterdir())
    monkeypatch.undo()


def test_an_interruption_in_the_midst_of_a_round_frees_the_processors(
    foveal: Foveal, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("nothing is pinned here")
    before, calls = os.sched_getaffinity(0), []
    time_one = run.paired_rounds

    def interrupted(*given: Any) -> Iterator[dict[str, float]]:
        for times in time_one(*given):
            calls.append(times)
            if len(calls) == 3:
                raise KeyboardInterrupt
            yield times

    monkeypatch.setattr(run, "paired_rounds", interrupted)
    stopped = foveal("bench", *QUICK, EAGER)
    assert stopped.code == 130 and "1 of 1 rows timed, 2 of 3 rounds" in stopped.err
    assert "with --json FILE they would be kept" in stopped.err
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--models=efficientmod_xsx"], "Did you mean 'efficientmod_xs'"),
        (["--models=timm:resnet10tt"], "Did you mean 'resnet10t'"),
        (["--models=a,,b"], "--models takes names"),
        (["--engines=eager,onx"], "no engine 'onx'. Did you mean 'onnx'"),
        (["--engines="], "--engines takes names"),
        (["--batch=0"], "--batch is 1 or more, got 0"),
        (["--threads=0"], "--threads is 1 or more, got 0"),
        (["--runs=0"], "--runs is 1 or more, got 0"),
        (["--image-size=-3"], "--image-size is 1 or more, got -3"),
        (["--batch=two"], "--batch takes a whole number, got 'two'"),
        (["--protocol=loud"], "--protocol is one of"),
        (["--plot=a.jpeg2"], "--plot takes a name ending in .png"),
        (["--json=-", "--csv=-"], "Standard output takes one format"),
    ],
)
def test_what_cannot_be_is_said(
    foveal: Foveal, flags: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(run, "hardware", lambda _: pytest.fail("work began"))
    given = QUICK if not flags[0].startswith("--models") else QUICK[1:]
    # The last of two is the one that counts.
    done = foveal("bench", *given, EAGER, *flags)
    assert done.code == 2 and words in done.err, done.err
    assert done.err.startswith("foveal: ") and done.err.count("\n") == 1


@pytest.mark.parametrize("flag", ["json", "csv", "markdown", "plot"])
def test_files_that_cannot_be_written_are_refused_before_any_work(
    foveal: Foveal, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "measure_latency", lambda *_: pytest.fail("work began"))
    (tmp_path / "taken.png").mkdir()
    done = foveal("bench", *QUICK, EAGER, f"--{flag}={tmp_path / 'taken.png'}")
    assert done.code == 2 and "it is a folder" in done.err


def test_the_picture_needs_matplotlib(
    foveal: Foveal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    done = foveal("bench", *QUICK, f"--plot={tmp_path / 'a.png'}")
    assert done.code == 2 and "needs matplotlib" in done.err and "foveal[explain]" in done.err


def test_the_table_says_what_is_beyond_noise(measured: LatencyTable) -> None:
    table = latency_table(measured)
    first, onnx = (dict(zip(table.columns, cells, strict=True)) for cells in table.rows[:2])
    assert (first["× first"], first["beyond noise"]) == (1.0, "no")
    assert (onnx["× first"], onnx["beyond noise"]) == (0.5, "yes")
    assert "1.000 (0.970–1.040)" in table.foot


def test_a_busy_machine_is_told_of(measured: LatencyTable) -> None:
    quiet = {**measured.hardware, "load_before": 0.4, "cpu_cores": 2}
    busy = {**quiet, "load_before": 1.9}
    assert "busy" not in latency_table(replace(measured, hardware=quiet)).foot
    assert (
        "busy before the start (load 1.9 on 2 processors)"
        in latency_table(replace(measured, hardware=busy)).foot
    )
