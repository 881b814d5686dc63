"""The quickstart: short for its report, and once in full for its promise."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from foveal.cli.main import main
from foveal.cli.quickstart import show_photographs
from foveal.recipes.quickstart import quickstart
from foveal.tools.box import load_boxed


class Page(HTMLParser):
    """Tags that are open, images, and addresses that a page refers to."""

    VOID = frozenset({"img", "meta", "link", "br"})

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("quickstart")
    assert main(["quickstart", "--output", str(output), "--max-steps", "4"]) == 0
    return (output / "report.html").read_text(encoding="utf-8")


def test_the_report_stands_alone_and_is_well_formed(report: str):
    page = Page(report)
    assert not page.open
    assert not re.search(r"https?://|<script|<link", report)
    assert page.images and all(image["alt"] for image in page.images)
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.images)
    assert "prefers-color-scheme: dark" in report


def test_the_report_says_what_it_should(report: str):
    for words in ("held-out accuracy", "Confusion matrix", "taken for", "stage 1, 8×8 cells"):
        assert words in report
    counts = re.findall(r'<td class="(?:right|wrong)" style="[^"]*">(\d+)</td>', report)
    assert sum(map(int, counts)) == 450


def test_the_path_is_printed_and_the_default_output_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["quickstart", "--max-steps", "1"]) == 0
        assert "foveal-quickstart/report.html" in capsys.readouterr().out
    assert main(["quickstart", "--max-steps", "1", "--output", "foveal-quickstart"]) == 2


def test_photographs_are_shown_with_what_the_model_in_the_box_takes_them_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("skimage", reason="scikit-image has the photographs")
    show_photographs(tmp_path / "photographs.png")
    shown = capsys.readouterr()
    header, *rows = (line.split("\t") for line in shown.out.splitlines()[:-1])
    assert [row[0] for row in rows] == ["an astronaut", "a cat", "a cup of coffee", "a rocket"]
    assert len(header) == 4 and all(re.fullmatch(r".+ \d+\.\d %", c) for r in rows for c in r[1:])
    # It knows a cat, and the table may well be wrong about it; of a rocket it knows nothing.
    assert re.search(r"no class for [^.]*\bor a rocket", shown.err) and "a cat" not in shown.err
    assert f"{len(load_boxed().card.classes)} classes" in shown.err
    picture = Image.open(tmp_path / "photographs.png").convert("RGB")
    colours = picture.getcolors(picture.width * picture.height) or []
    bars = {colour: count for count, colour in colours}
    assert picture.width > 1000 and bars[201, 221, 242] > 1000


def test_without_scikit_image_there_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert main(["quickstart", "--max-steps", "1", "--output", str(tmp_path / "run")]) == 0
    shown = capsys.readouterr()
    assert "scikit-image, which is not installed" in shown.err and "report.html" in shown.out
    assert not (tmp_path / "run" / "photographs.png").exists()


def test_recipes_are_typed_and_plain():
    assert quickstart(max_steps=3).train.max_steps == 3
    assert quickstart().to_dict()["data"]["source"] == "digits"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_keeps_its_promise(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["quickstart", "--output", str(tmp_path / "run")]) == 0
    accuracy = re.search(r"([\d.]+) % of 450 held-out", capsys.readouterr().err)
    assert accuracy and float(accuracy[1]) >= 97
