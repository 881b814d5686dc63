"""Effective receptive fields of the five families, Swin and ConvNeXt, side by side.

python examples/receptive_fields.py [FIGURE.png] [--images N] [--pretrained]
"""

from argparse import ArgumentParser
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch

import foveal
from foveal.errors import FovealError
from foveal.tools.explain.receptive_field import effective_receptive_field

NETWORKS = ["focalnet_tiny_srf", "transnext_tiny", "cloformer_s", "dat_tiny", "efficientmod_s"]
NETWORKS += ["swin_tiny_patch4_window7_224", "convnext_tiny"]


def network(name: str, pretrained: bool) -> tuple[torch.nn.Module, str]:
    """The network, and whether its weights are trained."""
    create = foveal.create_model if name in foveal.list_models() else timm.create_model
    torch.manual_seed(0)
    try:
        return create(name, pretrained=pretrained), "trained" if pretrained else "untrained"
    except (FovealError, OSError, RuntimeError) as reason:
        print(f"{name} stays untrained: {reason}")
        return create(name), "untrained"


if __name__ == "__main__":
    parser = ArgumentParser()
    parser.add_argument("figure", nargs="?", type=Path, default=Path("build/receptive_fields.png"))
    parser.add_argument("--images", type=int, default=1, help="of noise, to average over")
    parser.add_argument("--pretrained", action="store_true")
    options = parser.parse_args()
    images = torch.randn(options.images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    figure, axes = plt.subplots(1, len(NETWORKS), figsize=(3 * len(NETWORKS), 3.6))
    print(f"{'network':30} {'weights':10} {'50 %':>6} {'95 %':>6}  blocks")
    for name, axis in zip(NETWORKS, axes, strict=True):
        model, weights = network(name, options.pretrained)
        field = effective_receptive_field(model, images)
        half, most = (100 * field.high_contribution_area(share) for share in (0.5, 0.95))
        blocks = field.strongest_blockiness()
        score = f"{blocks.score:.2f} at {blocks.period} px"
        print(f"{name:30} {weights:10} {half:4.1f} % {most:4.1f} %  {score}")
        axis.imshow(np.log1p(field.contributions * field.contributions.size), cmap="magma")
        area = f"50 % in {half:.1f} %, 95 % in {most:.1f} %"
        axis.set_title(f"{name} ({weights})\n{area}\nblockiness {score}", fontsize=8)
        axis.set_axis_off()
    options.figure.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.figure, dpi=120, bbox_inches="tight")
    print(f"Areas of the image that hold 50 % and 95 % of the contributions; see {options.figure}.")
