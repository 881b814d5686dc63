"""CloFormer's claim: its local branch is of high, its global branch of low frequency.

python examples/cloformer_spectra.py [PHOTO] [--checkpoint FILE] [--output FILE.png]
"""

import argparse
from dataclasses import replace

import torch

from foveal.data.photographs import load_photographs
from foveal.data.transforms import eval_transform
from foveal.tools.explain import radial_spectrum, read_picture, record, views_of
from foveal.tools.explain.attentions import CloAttentionReading
from foveal.tools.explain.picture import seen_part
from foveal.tools.explain.views import CurveView
from foveal.tools.report.explanation_figures import INPUT, figure_of_rows
from foveal.tools.trained import model_by_name

parser = argparse.ArgumentParser()
parser.add_argument("photo", nargs="?", help="default: a cat")
parser.add_argument("--model", default="cloformer_xxs")
parser.add_argument("--checkpoint", help="weights; without them what follows is noise")
parser.add_argument("--output", default="cloformer_spectra.png")

if __name__ == "__main__":
    options = parser.parse_args()
    image = read_picture(options.photo).image if options.photo else load_photographs()[1].image
    trained = model_by_name(options.model, checkpoint=options.checkpoint)
    x = eval_transform(trained.card.preprocessing)(image)[None]
    with record(trained.model) as recording, torch.inference_mode():
        trained.model(x)
    warning = "" if trained.is_trained else ", untrained: noise"
    print(f"{options.model}{warning}: log amplitude of the finest waves over the mean's, and")
    print("share of the energy beside the mean's that is in waves from 0.25 cycles per cell up")
    last: dict[str, CurveView] = {}
    for path, reading in recording.items():
        assert isinstance(reading, CloAttentionReading)
        near, far = reading.local_output, reading.global_output
        if near is None or far is None or min(reading.size) < 4:
            continue
        local, distant = radial_spectrum(near), radial_spectrum(far)
        fine = [spectrum.relative_log_amplitude[-1] for spectrum in (local, distant)]
        print(
            f"{path:28} local {fine[0]:6.1f} {local.high_share:4.0%}"
            f"   global {fine[1]:6.1f} {distant.high_share:4.0%}"
        )
        stage, _, block = path.removesuffix(".mixer").partition(".blocks.")
        for view in views_of(reading):
            if block and isinstance(view, CurveView):
                last[stage] = replace(view, title=f"{stage}.blocks.{block}")
    seen = seen_part(image, trained.card.preprocessing)
    rows = [("", (INPUT, *last.values()))]
    title = f"log amplitude of the branches of {options.model} by frequency{warning}"
    figure_of_rows(title, rows, seen).savefig(options.output, dpi=150)
    print(options.output)
