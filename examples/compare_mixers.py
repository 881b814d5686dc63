"""Mechanisms in one body, all else equal: parameters and output size.

python examples/compare_mixers.py
"""

import torch

import foveal
from foveal.mixers import MIXERS

if __name__ == "__main__":
    for name in MIXERS:
        model = foveal.create_model("metaformer_tiny", mixer=name, num_classes=10).eval()
        millions = sum(p.numel() for p in model.parameters()) / 1e6
        with torch.inference_mode():
            logits = model(torch.randn(1, 3, 96, 128))
        print(f"{name:24} {millions:6.1f} M parameters, logits {tuple(logits.shape)}")
