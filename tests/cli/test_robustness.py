"""`foveal robustness`: tables, files, and going on after an interruption."""

import csv
import json
from pathlib import Path

import pytest

import foveal.tools.robustness as tool
from foveal.cli.robustness import robustness_tables
from tests.cli.conftest import Foveal

SOME = ["--corruptions=fog,pixelate,saturate", "--severities=1,5", "--workers=0"]


def test_every_format(foveal: Foveal, trained: Path, folder: Path, tmp_path: Path):
    command = ["robustness", "--checkpoint", trained, "--data", folder, *SOME]
    files = {name: tmp_path / f"errors.{name}" for name in ("json", "csv", "markdown")}
    outcome = foveal(*command, *(f"--{name}={path}" for name, path in files.items()))
    assert outcome.code == 0 and "3 images" in outcome.err
    standard, _, others = outcome.out.partition("Other corruptions: error %")
    assert "fog\t" in standard and "pixelate\t" in standard and "saturate\t" in others
    assert "not relative to AlexNet's errors" in others
    plain = json.loads(files["json"].read_text())
    assert len(plain["cells"]) == 7 and plain["mce"] is None
    rows = list(csv.DictReader(files["csv"].open()))
    assert [row["corruption"] for row in rows] == ["fog", "pixelate", "saturate"]
    assert rows[0]["severity 2"] == "" and float(rows[0]["severity 1"]) >= 0
    assert "### Other corruptions: error %" in files["markdown"].read_text()


def test_an_interruption_keeps_what_is_done(
    foveal: Foveal, trained: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "errors.json"
    command = ["robustness", "--checkpoint", trained, "--data", folder, *SOME, "--json", file]
    judge, calls = tool._judge_cell, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return judge(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tool, "_judge_cell", interrupted)
        stopped = foveal(*command)
    assert stopped.code == 130 and "fog\t" in stopped.out and "pixelate" not in stopped.out
    assert f"after 3 cells; {file} keeps them" in stopped.err
    done = json.loads(file.read_text())["cells"]
    assert len(done) == 3
    calls.clear()
    monkeypatch.setattr(tool, "_judge_cell", lambda *a: calls.append(a) or judge(*a))
    assert foveal(*command).code == 0 and len(calls) == 4
    assert json.loads(file.read_text())["cells"][:3] == done
    other = foveal(*command, "--image-size=48")
    assert other.code == 2 and "of other image_size (32, now 48)" in other.err
    assert foveal(*command, "--image-size=48", "--overwrite").code == 0


def test_what_cannot_be_is_said(foveal: Foveal, trained: Path, folder: Path, tmp_path: Path):
    command = ["robustness", "--checkpoint", trained, "--data", folder]
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "b.json").write_text("{")
    for flag, words in {
        "--corruptions=fgo": "Did you mean 'fog'",
        "--severities=a": "--severities takes numbers",
        "--severities=7": "Severities are 1 to 5",
        f"--json={tmp_path / 'a.json'}": "no result of foveal robustness",
        f"--json={tmp_path / 'b.json'}": "no JSON",
    }.items():
        outcome = foveal(*command, flag)
        assert outcome.code == 2 and words in outcome.err, outcome.err


def test_on_imagenet_every_standard_corruption_stands_beside_alexnet():
    cells = (tool.Cell("fog", 1, 100, 40), tool.Cell("spatter", 1, 100, 40))
    whole = tuple(tool.Cell("snow", severity, 100, 40) for severity in range(1, 6))
    standard, others = robustness_tables(tool.Robustness({}, True, (*cells, *whole)))
    assert standard.columns[-1] == "relative to AlexNet" and len(others.columns) == 7
    by_name = {row[0]: row for row in standard.rows}
    assert by_name["fog"][-1] is None
    assert by_name["snow"][-1] == pytest.approx(100 * 40 / 86.6816)
