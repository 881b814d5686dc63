"""The papers' component tables: a table's rows, each a network that `create_model` makes.

All rows of a table have one size, of 4 to 5 million parameters (the road: 2), so that a row is
trained on a small data set in little time. `published` is what the paper reports of its own
network, on ImageNet-1K at the paper's size: a direction to compare with, not a score to reach.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foveal.models.scaled import SCALED


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """A row of a component table: `create_model(model, num_classes=…, **options)`.

    Attributes:
        model: name of the network or of the body.
        options: plain values, its size and what the row changes.
        row: what the row is called.
        source: the paper, and the table in it.
        published: the paper's ImageNet-1K top-1 in percent of this row at the paper's size, where
            it is known to this project; else None.
    """

    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    row: str
    source: str
    published: float | None = None


_TRANSNEXT = "TransNeXt (Shi, CVPR 2024, arXiv 2311.17132), the road from PVT to TransNeXt"
_FOCALNET = "FocalNet (Yang et al., NeurIPS 2022, arXiv 2203.11926), component analysis"
_EFFICIENTMOD = "EfficientMod (Ma et al., ICLR 2024, arXiv 2403.19963), component ablation"
_EFFICIENTMOD_PEERS = "EfficientMod (Ma et al., ICLR 2024, arXiv 2403.19963), table 4"
_CLOFORMER = "CloFormer (Fan et al., 2023, arXiv 2303.17803), ablation of the two branches"
_DAT = "DAT (Xia et al., CVPR 2022, arXiv 2201.00520), ablation of offsets and position bias"


def _road() -> dict[str, Ablation]:
    """TransNeXt's road, in its order."""
    rows = {
        "sr_attention": "SR attention",
        "pool": "pool in place of SR",
        "activate_and_pool": "activate and pool",
        "pixel_focused": "+ pixel-focused path",
        "query_embedding": "+ query embedding",
        "positional_attention": "+ positional attention",
        "length_scaled_cosine": "+ length-scaled cosine",
        "conv_glu": "+ ConvGLU (TransNeXt)",
    }
    size = SCALED["transnext_2m"].options
    return {
        step: Ablation(
            model="transnext_road",
            options={**size, "step": step},
            row=row,
            source=_TRANSNEXT,
            published=82.5 if step == "conv_glu" else None,
        )
        for step, row in rows.items()
    }


def _changed(
    model: str,
    source: str,
    size: Mapping[str, Any],
    rows: Mapping[str, tuple[str, Mapping[str, Any]]],
) -> dict[str, Ablation]:
    """Rows that change options of one network: label and options by name."""
    return {
        name: Ablation(model=model, options={**size, **options}, row=row, source=source)
        for name, (row, options) in rows.items()
    }


_FOCALNET_SIZE = SCALED["focalnet_4m"].options
_DAT_SIZE = SCALED["dat_4m"].options

ABLATIONS: dict[str, dict[str, Ablation]] = {
    "transnext_road": _road(),
    "focalnet": {
        "full": Ablation(
            model="focalnet_tiny_lrf",
            options=_FOCALNET_SIZE,
            row="FocalNet (L = 3)",
            source=_FOCALNET,
            published=82.3,
        ),
        **_changed(
            "focalnet_ablated",
            _FOCALNET,
            _FOCALNET_SIZE,
            {
                "no_gating": ("no gating", {"gating": False}),
                "sum": ("sum instead of product", {"interaction": "sum"}),
                "no_hierarchy": ("no hierarchy: top level only", {"hierarchy": False}),
                "no_global": ("no global level", {"global_level": False}),
            },
        ),
    },
    "efficientmod": {
        "full": Ablation(
            model="efficientmod_xxs",
            row="EfficientMod-xxs",
            source=_EFFICIENTMOD_PEERS,
            published=76.0,
        ),
        **_changed(
            "efficientmod_ablated",
            _EFFICIENTMOD,
            {},
            {
                "no_f": ("without f", {"use_f": False}),
                "no_g": ("without g", {"use_g": False}),
                "no_depthwise": ("without dw", {"use_depthwise": False}),
                "sum": ("sum instead of product", {"interaction": "sum"}),
                "mbconv": ("MBConv in its place", {"unit": "mbconv"}),
            },
        ),
        "van_b0": Ablation(
            model="van_b0", row="VAN-B0", source=_EFFICIENTMOD_PEERS, published=75.4
        ),
        "focalnet_4m": Ablation(
            model=SCALED["focalnet_4m"].model,
            options=_FOCALNET_SIZE,
            row="FocalNet@4M",
            source=_EFFICIENTMOD_PEERS,
            published=74.5,
        ),
    },
    "cloformer": {
        "full": Ablation(
            model="cloformer_xxs", row="CloFormer-XXS", source=_CLOFORMER, published=77.0
        ),
        "local_only": Ablation(
            model="cloformer_xxs_no_global", row="local branch only", source=_CLOFORMER
        ),
        "global_only": Ablation(
            model="cloformer_xxs_global", row="global branch only", source=_CLOFORMER
        ),
    },
    "dat": {
        "full": Ablation(
            model="dat_tiny", options=_DAT_SIZE, row="DAT", source=_DAT, published=82.0
        ),
        **_changed(
            "dat_tiny",
            _DAT,
            _DAT_SIZE,
            {
                "no_offsets": ("no offsets", {"use_offsets": False}),
                "no_bias": ("no position bias", {"position_bias": "none"}),
                "neither": (
                    "neither offsets nor position bias",
                    {"use_offsets": False, "position_bias": "none"},
                ),
            },
        ),
    },
}
