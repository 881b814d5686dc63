"""Pages in a real browser: opening them, and reading what they show."""

import gzip
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

READY = "#image[aria-busy=false]"
STAGE_1, STAGE_2 = "section[aria-label='Stage 1']", "section[aria-label='Stage 2']"
ELSEWHERE = "section[aria-label='Elsewhere']"


def decoded(packet: bytes) -> tuple[dict[str, Any], bytes]:
    content = gzip.decompress(packet)
    (length,) = struct.unpack_from("<I", content)
    return json.loads(content[4 : 4 + length]), content[4 + length :]


@contextmanager
def visited(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """A page in a context of its own; it must not complain, nor ask anyone but its server."""
    context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **options})
    page = context.new_page()
    page.set_default_timeout(5_000)
    page.complaints, page.asked = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    try:
        page.goto(address)
        yield page
    finally:
        context.close()


def panel(page: Any, section: str, model: str) -> Any:
    return page.locator(f"{section} article[aria-label^='{model}']")


def settle(page: Any) -> None:
    """Wait until what was planned has been drawn."""
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


# From a copy: Chromium warns about a canvas that is read again and again.
READ = """(canvas, [x, y, width, height]) => {
  const copy = new OffscreenCanvas(canvas.width, canvas.height);
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const [left, top] = [Math.floor(x * canvas.width), Math.floor(y * canvas.height)];
  return context.getImageData(left, top, width || canvas.width, height || canvas.height).data;
}"""


def pixels(canvas: Any) -> int:
    """A number that tells pictures apart, made of all bytes of the canvas."""
    settle(canvas.page)
    summed = f"(canvas) => ({READ})(canvas, [0, 0]).reduce((s, b) => (31 * s + b) % 2147483647, 0)"
    return canvas.evaluate(summed)


def label(image: Any) -> str:
    settle(image.page)
    return image.get_attribute("aria-label").replace("\u00a0", " ")


def choose(control: Any, value: Any) -> None:
    """Move a slider, as a person does: the page hears of it."""
    control.evaluate(
        "(control, value) => { control.value = value;"
        " control.dispatchEvent(new Event('input', { bubbles: true })); }",
        str(value),
    )
