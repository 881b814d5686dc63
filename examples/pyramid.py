"""Any backbone as a feature pyramid for detection or segmentation.

python examples/pyramid.py
"""

import torch

import foveal

if __name__ == "__main__":
    for name in ("focalnet_tiny_srf", "transnext_micro", "cloformer_xxs", "efficientmod_xxs"):
        model = foveal.create_model(name, features_only=True, out_indices=(1, 2, 3)).eval()
        with torch.inference_mode():
            maps = model(torch.randn(1, 3, 160, 224))
        print(name, [tuple(m.shape) for m in maps], "strides", model.feature_info.reduction())
