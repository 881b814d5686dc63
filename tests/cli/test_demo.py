"""`foveal demo` from the command line: which models it shows, and what it refuses."""

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from foveal.cli import demo
from foveal.tools.trained import TrainedModel
from tests.cli.conftest import MODEL, Foveal


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would have been served."""
    found: dict[str, Any] = {}

    def serve(models: Sequence[TrainedModel], settings: Any, **options: Any) -> None:
        found.update(models=[model.card.model for model in models], settings=settings, **options)

    monkeypatch.setattr(demo, "serve_demo", serve)
    return found


def test_the_models_of_the_flags(foveal: Foveal, trained: Path, served: dict[str, Any]) -> None:
    assert foveal("demo").code == 0
    assert served["models"] == ["efficientmod_xxs"] and served["port"] == 0
    assert foveal("demo", f"--checkpoint={trained}", "--top=2", "--method=none").code == 0
    assert served["models"] == ["focalnet_tiny_srf"]
    assert served["settings"].top == 2 and served["settings"].method is None
    done = foveal("demo", f"--models=box,{MODEL.partition('=')[2]}", "--port=8001")
    assert served["models"] == ["efficientmod_xxs", "focalnet_tiny_srf"]
    assert served["port"] == 8001 and "UNTRAINED: focalnet_tiny_srf" in done.err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--checkpoint=nowhere", "--models=box"], "exclude each other"),
        (["--models=no_such_network"], "no_such_network"),
        (["--models=box,"], "separated by commas"),
        (["--checkpoint=nowhere.safetensors"], "There is no checkpoint nowhere.safetensors"),
        (["--pretrained"], "go with --models"),
        (["--top=0"], "--top is 1 or more, got 0"),
        (["--port=-1"], "--port is 0 to 65535, got -1"),
        (["--share"], "no option --share"),
    ],
)
def test_what_is_refused(
    foveal: Foveal, served: dict[str, Any], flags: list[str], sentence: str
) -> None:
    done = foveal("demo", *flags)
    assert done.code == 2 and not served
    assert done.err.startswith("foveal: ") and sentence in done.err
    assert done.err.count("\n") == 1


def test_without_gradio_the_extra_is_named(foveal: Foveal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    done = foveal("demo")
    assert done.code == 2 and "pip install 'foveal[web]'" in done.err


def test_ctrl_c_ends_the_page(foveal: Foveal, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio", reason="needs Gradio")
    pages = []

    class Interrupted:
        def wait(self) -> None:
            """The test's turn, while the page is there."""
            with urllib.request.urlopen(pages[0], timeout=20) as page:
                assert "Upload a picture" in page.read().decode()
            raise KeyboardInterrupt

    monkeypatch.setattr("foveal.tools.demo.Event", Interrupted)
    monkeypatch.setattr(demo, "note", lambda text: pages.append(text.split()[0]))
    assert foveal("demo").code == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(pages[0], timeout=20)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_page_answers_until_ctrl_c() -> None:
    pytest.importorskip("gradio", reason="needs Gradio")
    command = [sys.executable, "-m", "foveal.cli.main", "demo"]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert run.stderr is not None
        found = next(m for line in run.stderr if (m := re.search(r"http://\S+", line)))
        with urllib.request.urlopen(found[0], timeout=20) as page:
            assert "Upload a picture" in page.read().decode()
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 0
    finally:
        run.kill()
        _, errors = run.communicate()
    assert "Traceback" not in errors
