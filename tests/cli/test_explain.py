"""`foveal explain` from the command line: pages, figures, arrays, and the models it takes."""

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Foveal

QUICK = ["--method=none", "--queries=2"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A grey picture that lies on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "photo <1>.jpg"
    Image.radial_gradient("L").save(path, exif=exif)
    return path


def test_the_page_of_two_models(foveal: Foveal, photo: Path, trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "seen"
    done = foveal("explain", photo, f"--models={trained},box", f"--output={output}", *QUICK)
    assert done.code == 0, done.err
    assert done.out == f"Page: {output / 'index.html'}\n"
    assert [path.name for path in output.iterdir()] == ["index.html"]
    assert "Turned as its EXIF data ask for." in done.err and "UNTRAINED" not in done.err
    page = (output / "index.html").read_text()
    assert "focalnet_tiny_srf" in page and "efficientmod_xxs" in page
    assert "photo <1>.jpg" not in page and "photo \\u003c1>.jpg" in page


def test_an_earlier_page_stays_unless_told(foveal: Foveal, photo: Path, tmp_path: Path) -> None:
    output = tmp_path / "seen"
    output.mkdir()
    (output / "index.html").write_text("mine")
    refused = foveal("explain", photo, f"--output={output}", *QUICK)
    assert refused.code == 2 and "--overwrite" in refused.err
    assert (output / "index.html").read_text() == "mine"
    assert foveal("explain", photo, f"--output={output}", "--overwrite", *QUICK).code == 0
    assert len((output / "index.html").read_text()) > 10_000


def test_the_default_folder_is_replaced(
    foveal: Foveal, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert foveal("explain", photo, *QUICK).code == 0
    assert Path("foveal-explain/index.html").exists()


def test_untrained_networks_get_a_banner(foveal: Foveal, photo: Path, tmp_path: Path) -> None:
    models = "--models=efficientmod_xxs,timm:resnet10t"
    done = foveal("explain", photo, models, f"--output={tmp_path / 'seen'}", *QUICK)
    assert done.code == 0 and "UNTRAINED: efficientmod_xxs, timm:resnet10t have" in done.err
    page = (tmp_path / "seen" / "index.html").read_text()
    assert "No mixer with readings; --method, --faithful and --erf are for any model" in page
    assert "timm:resnet10t: No mixer with readings" in done.err


def test_a_new_page_has_nothing_of_the_last_one(
    foveal: Foveal, photo: Path, trained: Path, tmp_path: Path
) -> None:
    output = tmp_path / "seen"
    for folder, name in (("figures", "a--b.png"), ("figures", "mine.png"), ("arrays", "a--b.npz")):
        (output / folder).mkdir(parents=True, exist_ok=True)
        (output / folder / name).touch()
    (output / "index.html").touch()
    flags = [f"--models={trained}", f"--output={output}", "--overwrite", *QUICK]
    assert foveal("explain", photo, *flags).code == 0
    left = sorted(str(p.relative_to(output)) for p in output.rglob("*.*"))
    assert left == ["figures/mine.png", "index.html"]


def test_no_arrays_without_readings(foveal: Foveal, photo: Path, tmp_path: Path) -> None:
    flags = ["--models=timm:resnet10t", f"--output={tmp_path / 'seen'}", "--arrays", *QUICK]
    done = foveal("explain", photo, *flags)
    assert done.code == 0 and "Arrays:" not in done.out and "No arrays" in done.err


def test_figures_and_arrays(foveal: Foveal, photo: Path, trained: Path, tmp_path: Path) -> None:
    output = tmp_path / "seen"
    flags = [f"--models={trained}", f"--output={output}", "--figures", "--arrays", "--erf"]
    done = foveal("explain", photo, *flags, "--queries=2")
    assert done.code == 0, done.err
    assert done.out.splitlines()[1:] == [
        f"Figures: {output / 'figures'}",
        f"Arrays: {output / 'arrays'}",
    ]
    names = sorted(str(p.relative_to(output)) for p in output.rglob("*.*"))
    stem = "photo <1>--focalnet_tiny_srf"
    assert names == [
        f"arrays/{stem}.npz",
        f"figures/{stem}.png",
        f"figures/{stem}.svg",
        "index.html",
    ]
    assert np.load(output / names[0])["stages.0.blocks.0.mixer/gates"].shape[1] == 3


@pytest.mark.timeout(120)
def test_live_queries_on_this_machine(photo: Path, trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "foveal.cli.main", "explain", str(photo)]
    flags = [f"--models={trained}", f"--output={tmp_path / 'seen'}", "--serve", *QUICK]
    run = subprocess.Popen(
        [*command, *flags], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        assert run.stderr is not None
        found = next(m for line in run.stderr if (m := re.search(r"http://\S+", line)))
        assert found[0].startswith("http://127.0.0.1:")
        with urllib.request.urlopen(found[0]) as page:
            text = page.read().decode()
        assert json.loads(text.split('id="content">')[1].split("</script>")[0])["live"] is True
    finally:
        run.terminate()
        run.wait(30)
