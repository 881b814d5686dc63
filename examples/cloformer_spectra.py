"""CloFormer's claim as a number: its local branch is of high, its global of low frequency.

python examples/cloformer_spectra.py [PHOTO] [--checkpoint FILE]
"""

import argparse

import torch

from foveal.data.photographs import load_photographs
from foveal.data.transforms import eval_transform
from foveal.tools.explain import radial_spectrum, read_picture, record
from foveal.tools.explain.attentions import CloAttentionReading
from foveal.tools.trained import model_by_name

parser = argparse.ArgumentParser()
parser.add_argument("photo", nargs="?", help="default: a cat")
parser.add_argument("--model", default="cloformer_xxs")
parser.add_argument("--checkpoint", help="weights; without them what follows is noise")

if __name__ == "__main__":
    options = parser.parse_args()
    image = read_picture(options.photo).image if options.photo else load_photographs()[1].image
    trained = model_by_name(options.model, checkpoint=options.checkpoint)
    x = eval_transform(trained.card.preprocessing)(image)[None]
    with record(trained.model) as recording, torch.inference_mode():
        trained.model(x)
    weights = "" if trained.is_trained else ", untrained"
    print(f"{options.model}{weights}: log amplitude of the finest waves over the mean")
    for path, reading in recording.items():
        assert isinstance(reading, CloAttentionReading)
        near, far = reading.local_output, reading.global_output
        if near is not None and far is not None:
            fine = [radial_spectrum(branch).relative_log_amplitude[-1] for branch in (near, far)]
            print(f"{path:28} local {fine[0]:6.1f}   global {fine[1]:6.1f}")
