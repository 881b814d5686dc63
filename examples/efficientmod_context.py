"""EfficientMod's context maps, block by block, in the model in the box: trained, and offline.

python examples/efficientmod_context.py [PHOTO] [--output FILE.png]
"""

import argparse
from dataclasses import replace
from itertools import groupby

from foveal.data.photographs import load_photographs
from foveal.tools.box import load_boxed
from foveal.tools.explain import ExplainSettings, Picture, explain_images, read_picture
from foveal.tools.report.explanation_figures import INPUT, figure_of_rows

parser = argparse.ArgumentParser()
parser.add_argument("photo", nargs="?", help="default: a cat")
parser.add_argument("--output", default="efficientmod_context.png")

if __name__ == "__main__":
    options = parser.parse_args()
    cat = load_photographs()[1]
    picture = read_picture(options.photo) if options.photo else Picture(cat.name, cat.image)
    explained = explain_images([load_boxed()], [picture], ExplainSettings(method=None))
    seen = explained.explanation.images[0].models[0]
    modulating = [block for block in seen.blocks if block.kind == "efficient modulation"]
    rows = []
    for stage, blocks in groupby(modulating, key=lambda block: block.stage):
        maps = [replace(b.views[0], title=f"block {b.block + 1}") for b in blocks]
        rows.append((f"stage {stage + 1}", (INPUT, *maps)))
    title = f"context of {seen.model}, taken for: {seen.scores[0].name}"
    figure_of_rows(title, rows, seen.picture).savefig(options.output, dpi=150)
    print(options.output)
