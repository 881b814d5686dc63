"""The progress bar: on a terminal, after a while."""

import time

import pytest

from foveal.cli.progress import progress_bar


def shown(capsys: pytest.CaptureFixture[str], seconds: float, patience: float = 0.1) -> str:
    with progress_bar("images", patience) as advance:
        advance(3, 8)
        time.sleep(seconds)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_terminal_gets_a_bar_after_a_while(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "3/8" in shown(capsys, 0.4) and shown(capsys, 0.0) == ""


def test_a_pipe_gets_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert shown(capsys, 0.3) == ""


def test_an_error_stops_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with pytest.raises(KeyboardInterrupt), progress_bar("images", 0.0):
        time.sleep(0.2)
        raise KeyboardInterrupt
    assert "images" in capsys.readouterr().err
    time.sleep(0.2)
    assert capsys.readouterr().err == ""
