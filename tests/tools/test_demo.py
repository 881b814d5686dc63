"""The demo in a browser: an upload gives classes and an explanation, and no word leaves."""

import json
import os
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from foveal.errors import FovealError
from foveal.tools.box import load_boxed
from foveal.tools.demo import explained_picture, running_demo, serve_demo
from foveal.tools.explain.run import ExplainSettings
from tests.tools.pages import READY, visited

# Of the environment, while a demo is served.
CHANGED = ("GRADIO_TEMP_DIR", "NO_PROXY", "no_proxy")

QUICK = ExplainSettings(top=3, queries=2)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a demo of the model in the box."""
    pytest.importorskip("gradio", reason="needs Gradio")
    with running_demo([load_boxed()], QUICK) as address:
        yield address


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "a <photo>.jpg"
    Image.radial_gradient("L").save(path)
    return path


def upload(page: Any, path: Path) -> None:
    """As a person does."""
    page.locator("input[type=file]").set_input_files(path)


def check_quiet(page: Any, address: str) -> None:
    """No complaint, and no request to anyone else."""
    # What Gradio says whenever it is done with an answer.
    assert set(page.complaints) <= {"Method not implemented."}
    assert all(url.startswith((address, "data:", "blob:")) for url in page.asked), page.asked
    assert len(page.asked) > 10


def test_an_upload_gives_classes_and_an_explanation(
    browser: Any, address: str, photo: Path
) -> None:
    ((classes,), _) = explained_picture([load_boxed()], QUICK, photo, photo.name)
    assert len(classes) == 3
    with visited(browser, address) as page:
        upload(page, photo)
        for name in classes:
            page.locator("dt", has_text=name).wait_for(timeout=30_000)
        frame = page.frame_locator("iframe[title=Explanation]")
        frame.locator(READY).wait_for()
        frame.get_by_role("heading", name="a <photo>.jpg", exact=True).wait_for()
        assert frame.locator("canvas").count() > 4
        check_quiet(page, address)


def test_a_file_that_is_no_picture_is_told_and_the_next_one_shown(
    browser: Any, address: str, photo: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(photo.read_bytes()[:-500])
    with visited(browser, address) as page:
        upload(page, damaged)
        page.get_by_text("damaged.jpg is not an image that can be read: the file is").wait_for(
            timeout=30_000
        )
        assert page.locator("iframe").count() == 0
        page.get_by_label("Remove Image").click()
        upload(page, photo)
        page.frame_locator("iframe").locator(READY).wait_for(timeout=30_000)
        assert page.get_by_role("alert").count() == 0
        check_quiet(page, address)


def test_only_this_machine_is_answered(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    for host, status in (("evil.example", 400), ("127.0.0.1", 200)):
        request = urllib.request.Request(address, headers={"Host": host})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                text = answer.read().decode()
                assert answer.status == status
                assert "fonts.googleapis.com" not in text
        except urllib.error.HTTPError as error:
            assert error.code == status


def test_a_port_in_use_is_told(address: str) -> None:
    for port in (int(address.rstrip("/").rpartition(":")[2]), 70000):
        with pytest.raises(FovealError, match="choose another port"):
            serve_demo([load_boxed()], QUICK, port=port)


def test_nothing_that_was_uploaded_stays_or_goes_elsewhere(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, hosts = socket.socket.connect, set()

    def noted(self: socket.socket, where: Any) -> None:
        hosts.add(where[:2])
        connect(self, where)

    monkeypatch.setattr(socket.socket, "connect", noted)
    # The discard port: who asks a proxy gets no answer.
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    pytest.importorskip("gradio", reason="needs Gradio")
    before = [os.environ.get(name) for name in CHANGED]
    with running_demo([load_boxed()], QUICK) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
        body += photo.read_bytes() + b"\r\n--b--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        request = urllib.request.Request(f"{address}gradio_api/upload", body, headers)
        with urllib.request.urlopen(request, timeout=20) as answer:
            (path,) = json.loads(answer.read())
        assert Path(path).is_relative_to(folder) and Path(path).exists()
    assert hosts == {("127.0.0.1", int(address.rstrip("/").rpartition(":")[2]))}
    assert not folder.exists()
    assert [os.environ.get(name) for name in CHANGED] == before
