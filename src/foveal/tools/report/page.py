"""A self-contained page: escaped text, inline images, light and dark."""

import base64
import hashlib
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

_STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #57606a; --page: #ffffff;
  --card: #f4f6f8; --line: #d0d7de; --accent: #2b6cb0; --ink: 30, 92, 168; --bad: #a3342b; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --soft: #9aa4af; --page: #11151a;
  --card: #1b2129; --line: #333c46; --accent: #7ab7f0; --ink: 96, 165, 232; --bad: #f0938a; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 60rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; }
.figures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; padding: 0; }
.figures div { background: var(--card); border-radius: .5rem; padding: .7rem 1rem; }
.figures dt { color: var(--soft); font-size: .85rem; } .figures dd { margin: 0;
  font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .3rem .6rem; text-align: center; } th { color: var(--soft); font-weight: 600; }
.confusion td { border: 1px solid var(--line); min-width: 1.6rem; }
.confusion thead td { border: none; } .confusion td.none { color: var(--soft); }
.confusion td.wrong { color: var(--bad); font-weight: 700; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; }
figure { margin: 0; background: var(--card); border-radius: .5rem; padding: .6rem; }
figcaption { font-size: .85rem; margin-top: .3rem; }
img { display: block; image-rendering: pixelated; border-radius: .25rem; }
.legend { display: flex; align-items: center; gap: .6rem; margin: .6rem 0; font-size: .9rem; }
.legend img { image-rendering: auto; }
"""


def page(
    title: str, *sections: str, style: str = "", script: str = "", connects: bool = False
) -> str:
    """A whole document of the sections' HTML.

    Args:
        title: as plain text.
        sections: in HTML.
        style: rules beside those of all pages.
        script: a module that runs once the document is there. A page that has one is allowed its
            own script and style and nothing from elsewhere, whatever its text may contain.
        connects: whether the script may ask the server that the page came from.
    """
    styles, body = _STYLE + style, "\n".join(sections)
    policy = _policy(styles, script, connects) if script else ""
    run = f'<script type="module">{script}</script>\n' if script else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'{policy}<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{styles}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n{run}</body>\n</html>\n"
    )


def _policy(style: str, script: str, connects: bool) -> str:
    """What a browser lets the page do; and an icon of its own, for which it would else ask."""

    def known(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

    rules = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{known(style)}'; script-src 'sha256-{known(script)}'"
    )
    rules += "; connect-src 'self'" if connects else ""
    return (
        f'<meta http-equiv="Content-Security-Policy" content="{rules}">\n'
        '<link rel="icon" href="data:,">\n'
    )


def section(title: str, *parts: str) -> str:
    """A headed part of the page."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def figures(values: dict[str, str]) -> str:
    """Large numbers with their names."""
    items = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="figures">{"".join(items)}</dl>'


def picture(
    image: Image.Image,
    alt: str,
    width: int,
    height: int | None = None,
    *,
    photograph: bool = False,
) -> str:
    """An inline image, `width` pixels wide on the page, with its description.

    A photograph is stored as JPEG, in a fraction of the bytes.
    """
    buffer, kind = io.BytesIO(), "jpeg" if photograph else "png"
    image.save(buffer, format=kind, **({"quality": 88} if photograph else {}))
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    tall = height or round(width * image.height / image.width)
    return (
        f'<img src="data:image/{kind};base64,{data}" alt="{escape(alt)}" '
        f'width="{width}" height="{tall}">'
    )


def card(content: str, caption: str) -> str:
    """A picture with a caption of plain text."""
    return f"<figure>{content}<figcaption>{escape(caption)}</figcaption></figure>"


def cards(items: list[str]) -> str:
    """Cards side by side."""
    return f'<div class="cards">{"".join(items)}</div>'


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of plain text, each headed by its first cell."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def confusion_table(classes: tuple[str, ...], counts: tuple[tuple[int, ...], ...]) -> str:
    """True classes down, predicted ones across; the more images, the stronger the colour."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in classes)
    rows = []
    for index, (name, row) in enumerate(zip(classes, counts, strict=True)):
        cells = "".join(_cell(n, max(1, sum(row)), index == j) for j, n in enumerate(row))
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        '<div class="scroll"><table class="confusion"><caption>Rows: the true class. Columns: '
        "what the model took it for. Mistakes are off the diagonal, in bold.</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _cell(count: int, total: int, correct: bool) -> str:
    if count == 0:
        return '<td class="none">·</td>'
    # At most this opaque, so that the number stays legible on either ground.
    shade = f' style="background: rgba(var(--ink), {0.08 + 0.34 * count / total:.2f})"'
    return f'<td class="{"right" if correct else "wrong"}"{shade}>{count}</td>'


def legend(gradient: Image.Image, low: str, high: str) -> str:
    """What the colours of a map mean."""
    bar = picture(gradient, f"colour scale from {low} to {high}", 180, 12)
    return f'<div class="legend"><span>{escape(low)}</span>{bar}<span>{escape(high)}</span></div>'
