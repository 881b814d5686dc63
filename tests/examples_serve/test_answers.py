"""What the server answers to images, and to everything else."""

import gzip
import struct
import zlib
from typing import Any

import pytest
from examples.serve.load import require_loopback
from PIL import Image

from foveal.data.images import EncodedImage
from foveal.tools.predict import predict_sources
from tests.examples_serve.servers import JPEG, Running, encoded, photo, small_model


def png_head(width: int, height: int) -> bytes:
    """A PNG file that says its size and then ends."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [b"\x89PNG\r\n\x1a\n", struct.pack(">I", 13), head, struct.pack(">I", zlib.crc32(head))]
    return b"".join([*parts, struct.pack(">I", 9), b"IDAT", b"half"])


def gif_with_frame(width: int, height: int) -> bytes:
    """A GIF file of one pixel, whose first frame is larger and missing."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x01\x00\x00;"


def check_error(answer: Any, status: int, fragment: str) -> None:
    """One sentence, and nothing but it."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    sentence = answer.json()["error"]
    assert fragment in sentence and sentence.endswith(".") and "\n" not in sentence
    assert sentence[:-1].count(". ") == 0


def test_the_answer_is_that_of_a_single_prediction(server: Running) -> None:
    trained, data = small_model(), photo()
    named = server.client.get("/metadata").json()
    (expected,) = predict_sources(trained, [EncodedImage("one", data)], ["one"], top=3)
    form = server.client.post("/predict?top=3", files={"file": ("a.jpg", data, "image/jpeg")})
    raw = server.client.post("/predict?top=3", content=data, headers=JPEG)
    assert form.json() == raw.json() and raw.json()["model"] == "focalnet_tiny_srf"
    found = raw.json()["predictions"]
    assert [entry["class"] for entry in found] == [score.name for score in expected.scores]
    assert [named["classes"][entry["index"]] for entry in found] == [e["class"] for e in found]
    assert found[0]["probability"] > 0.3
    for entry, score in zip(found, expected.scores, strict=True):
        assert entry["probability"] == pytest.approx(score.probability, abs=1e-5)


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "webp", "jpeg", "mpo"])
def test_formats(server: Running, kind: str) -> None:
    data = encoded(Image.radial_gradient("L"), kind)
    answer = server.predict(data, headers={"Content-Type": "application/octet-stream"})
    assert answer.status_code == 200 and len(answer.json()["predictions"]) == 5


def test_a_photograph_that_lies_on_its_side(server: Running) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.linear_gradient("L")
    turned = server.predict(encoded(image, "png", exif=exif)).json()
    upright = server.predict(encoded(image.rotate(-90), "png")).json()
    assert turned == upright != server.predict(encoded(image, "png")).json()


def test_health_and_metadata(server: Running) -> None:
    assert server.client.get("/health").json() == {"status": "ok"}
    found = server.client.get("/metadata").json()
    assert found["model"] == "focalnet_tiny_srf" and len(found["classes"]) == 7
    assert found["input_size"] == [3, 32, 32] and found["limits"]["max_bytes"] == 200_000


HALF = photo()[:-500]
BAD_BODIES = {
    "empty": (b"", 422, "is empty"),
    "text": (b"I am a photograph, promise", 422, "not an image that can be read"),
    "half": (HALF, 422, "damaged"),
    "tiff": (encoded(Image.new("L", (9, 9)), "tiff"), 415, "the format TIFF"),
    "icon": (encoded(Image.new("L", (32, 32)), "ico"), 415, "the format ICO"),
    "large": (bytes(200_001), 413, "200,001 bytes or more, and 200,000 are allowed"),
    # Decoding these would find them damaged, which is 422.
    "pixels": (png_head(1000, 401), 413, "1000 × 401 pixels, and 400,000 pixels are allowed"),
    "bomb": (png_head(60_000, 60_000), 413, "far too large, and 400,000 pixels"),
    "frame": (gif_with_frame(1000, 401), 413, "1000 × 401 pixels"),
    "real bomb": (encoded(Image.new("1", (9_000, 9_000))), 413, "9000 × 9000 pixels"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.parametrize("in_form", [False, True], ids=["raw", "form"])
def test_bodies_that_are_refused(server: Running, name: str, in_form: bool) -> None:
    body, status, fragment = BAD_BODIES[name]
    if in_form:
        # The whole form counts.
        fragment = fragment.replace("200,001 bytes", "bytes")
        answer = server.client.post("/predict", files={"file": ("a.jpg", body)})
    else:
        answer = server.predict(body)
    check_error(answer, status, fragment)


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'
BAD_FORMS = {
    "no boundary": (PART, "names no boundary", {"Content-Type": "multipart/form-data"}),
    "another boundary": (b"--c" + PART[3:] + b"--c--", "damaged", FORM),
    "no name": (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--", "damaged", FORM),
    "no disposition": (b"--b\r\n\r\nx\r\n--b--", "damaged", FORM),
    "long header": (b"--b\r\nX: " + 9000 * b"y" + b"\r\n\r\nx\r\n--b--", "damaged", FORM),
    "no end": (PART, "no whole file", FORM),
    "no file": (PART.replace(b'; filename="a"', b"") + b"--b--", "no whole file", FORM),
    "nothing": (b"", "no whole file", FORM),
    "many fields": (20 * PART.replace(b'; filename="a"', b"") + b"--b--", "16 fields", FORM),
    "two files": (PART + PART + b"--b--", "several files", FORM),
}


@pytest.mark.parametrize("name", BAD_FORMS)
def test_forms_that_are_refused(server: Running, name: str) -> None:
    body, fragment, headers = BAD_FORMS[name]
    check_error(server.predict(body, headers=headers), 422, fragment)


@pytest.mark.parametrize("kind", ["text/plain", "application/json", "image", ""])
def test_other_content_is_refused(server: Running, kind: str) -> None:
    check_error(server.predict(photo(), headers={"Content-Type": kind}), 415, "Content-Type")


def test_a_compressed_body_is_refused(server: Running) -> None:
    headers = {**JPEG, "Content-Encoding": "gzip"}
    check_error(server.predict(gzip.compress(photo()), headers=headers), 415, "compressed")


@pytest.mark.parametrize("top", ["0", "-1", "many", ""])
def test_a_wrong_number_of_classes_is_refused(server: Running, top: str) -> None:
    answer = server.client.post(f"/predict?top={top}", content=photo(), headers=JPEG)
    check_error(answer, 422, f"1 or more, got {top!r}")


def test_what_is_not_there(server: Running) -> None:
    check_error(server.client.get("/nothing"), 404, "GET /nothing")
    check_error(server.client.get("/predict"), 405, "POST /predict")
    for page in ("/docs", "/redoc"):
        assert server.client.get(page).status_code == 404


@pytest.mark.parametrize("url", ["http://example.com", "http://192.0.2.1:8000", "127.0.0.1", ""])
def test_the_load_script_refuses_other_machines(url: str) -> None:
    with pytest.raises(SystemExit, match="of this machine"):
        require_loopback(url)
    require_loopback("http://127.0.0.1:8000")
    require_loopback("http://[::1]:8000")
