"""FocalNet's gating maps and modulators over a photograph, stage by stage.

python examples/focalnet_gates.py [PHOTO] [--pretrained] [--output FILE.png]
"""

import argparse

from foveal.data.photographs import load_photographs
from foveal.tools.explain import ExplainSettings, Picture, explain_images, read_picture
from foveal.tools.report.explanation_figures import INPUT, figure_of_rows
from foveal.tools.trained import model_by_name

parser = argparse.ArgumentParser()
parser.add_argument("photo", nargs="?", help="default: a cat")
parser.add_argument("--model", default="focalnet_tiny_srf")
parser.add_argument("--pretrained", action="store_true")
parser.add_argument("--output", default="focalnet_gates.png")

if __name__ == "__main__":
    options = parser.parse_args()
    cat = load_photographs()[1]
    picture = read_picture(options.photo) if options.photo else Picture(cat.name, cat.image)
    trained = model_by_name(options.model, pretrained=options.pretrained)
    explained = explain_images([trained], [picture], ExplainSettings(method=None))
    seen = explained.explanation.images[0].models[0]
    rows = [(f"stage {block.stage + 1}", (INPUT, *block.views[:2])) for block in seen.last_blocks]
    warning = "" if trained.is_trained else ", untrained: noise"
    title = f"gates and modulator of {options.model}{warning}"
    figure_of_rows(title, rows, seen.picture).savefig(options.output, dpi=150)
    print(options.output)
