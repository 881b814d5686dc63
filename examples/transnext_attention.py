"""TransNeXt's foveal and peripheral attention: one softmax over a window and the pooled image.

python examples/transnext_attention.py [PHOTO] [--pretrained] [--output FILE.png]
"""

import argparse

from foveal.data.photographs import load_photographs
from foveal.tools.explain import (
    ExplainSettings,
    Picture,
    QueryAttention,
    explain_images,
    read_picture,
)
from foveal.tools.explain.reading_views import QUERIES
from foveal.tools.explain.views import QueryView
from foveal.tools.report.explanation_figures import figure_of_rows
from foveal.tools.trained import model_by_name

parser = argparse.ArgumentParser()
parser.add_argument("photo", nargs="?", help="default: a cat")
parser.add_argument("--model", default="transnext_micro")
parser.add_argument("--pretrained", action="store_true")
parser.add_argument("--output", default="transnext_attention.png")

# Rows and columns of three queries, as fractions of the picture.
PLACES = ((0.35, 0.3), (0.5, 0.5), (0.75, 0.6))


def view_of(seen: QueryAttention) -> QueryView:
    """One query, titled by how much of its attention the window takes."""
    words = "all positions"
    if seen.window is not None:
        words = f"window {seen.window[0].sum():.0%}, pooled {1 - seen.window[0].sum():.0%}"
    return QueryView(words, "Weights of one query.", ("mean of the heads",), ((seen,),))


if __name__ == "__main__":
    options = parser.parse_args()
    cat = load_photographs()[1]
    picture = read_picture(options.photo) if options.photo else Picture(cat.name, cat.image)
    trained = model_by_name(options.model, pretrained=options.pretrained)
    explained = explain_images(
        [trained], [picture], ExplainSettings(method=None, keep_readings=True)
    )
    seen = explained.explanation.images[0].models[0]
    rows = []
    for block in seen.last_blocks:
        queries = [explained.query(0, 0, block.path, QUERIES, *place) for place in PLACES]
        rows.append((f"stage {block.stage + 1}\n{block.kind}", [view_of(q) for q in queries]))
    warning = "" if trained.is_trained else ", untrained: noise"
    title = f"attention of three positions in {options.model}{warning}"
    figure_of_rows(title, rows, seen.picture).savefig(options.output, dpi=150)
    print(options.output)
