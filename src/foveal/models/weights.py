"""Published checkpoints: where they are, under which licence, and what they score. Data only."""

from dataclasses import dataclass
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One checkpoint of the papers.

    Attributes:
        tag: name after the variant's, `transnext_small.in1k_384`; "dist" is distilled.
        url: direct link, or None where none exists.
        obtain: where the file can be had without a direct link.
        licence: SPDX identifier.
        paper: arXiv number.
        input_size: side in pixels it is meant for.
        crop_pct: share of the resized side that the centre crop keeps.
        mean: of the red, green and blue it was trained on, in [0, 1].
        std: likewise.
        num_classes: outputs of the published classifier.
        top1: published ImageNet-1K top-1 in per cent at `input_size`, None where no source has it.
    """

    tag: str
    url: str | None = None
    obtain: str = ""
    licence: str
    paper: str
    input_size: int = 224
    crop_pct: float = 0.875
    mean: tuple[float, float, float] = IMAGENET_DEFAULT_MEAN
    std: tuple[float, float, float] = IMAGENET_DEFAULT_STD
    num_classes: int = 1000
    top1: float | None = None


_FOCALNET: dict[str, Any] = {"licence": "MIT", "paper": "2203.11926", "crop_pct": 0.9}
_FOCALNET_22K: dict[str, Any] = {**_FOCALNET, "tag": "in22k", "num_classes": 21842}
_FOCALNET_384: dict[str, Any] = {
    **_FOCALNET_22K,
    "tag": "in22k_384",
    "input_size": 384,
    "crop_pct": 1.0,
}
_TRANSNEXT: dict[str, Any] = {"licence": "Apache-2.0", "paper": "2311.17132"}
_TRANSNEXT_384: dict[str, Any] = {
    **_TRANSNEXT,
    "tag": "in1k_384",
    "input_size": 384,
    "crop_pct": 1.0,
}
_CLOFORMER: dict[str, Any] = {
    "licence": "MIT",
    "paper": "2303.17803",
    "obtain": "The authors of CloFormer never published weights.",
}
_DAT: dict[str, Any] = {
    "licence": "Apache-2.0",
    "paper": "2201.00520",
    "obtain": "The authors took the links to the first DAT's weights off their page; ask them.",
}
_DAT_PP: dict[str, Any] = {"licence": "Apache-2.0", "paper": "2309.01430"}
_EFFICIENTMOD: dict[str, Any] = {"licence": "Apache-2.0", "paper": "2403.19963"}

_GITHUB = "https://github.com/microsoft/FocalNet/releases/download/v1.0.0/"
_HF_TIMM = "https://huggingface.co/timm/"
_HF_TRANSNEXT = "https://huggingface.co/DaiShiResearch/transnext-"


def _azure(file: str) -> str:
    return (
        f"The authors' only copy, {file} on their Azure storage, is no longer public "
        "(github.com/microsoft/FocalNet/issues/43); ask them."
    )


def _tsinghua(link: str, drive: str) -> str:
    return (
        f"It is at https://cloud.tsinghua.edu.cn/f/{link}/ or on Google Drive, "
        f"https://drive.google.com/file/d/{drive}."
    )


def _drive_folder(folder: str) -> str:
    return f"It is in the Google Drive folder https://drive.google.com/drive/folders/{folder}."


# What a body that nobody has published weights of is told of images.
UNPUBLISHED = Weights(tag="", licence="Apache-2.0", paper="2111.11418")

# The first of a variant is its default.
WEIGHTS: dict[str, tuple[Weights, ...]] = {
    "focalnet_tiny_srf": (
        Weights(tag="in1k", url=_GITHUB + "focalnet_tiny_srf.pth", top1=82.1, **_FOCALNET),
    ),
    "focalnet_tiny_lrf": (
        Weights(tag="in1k", url=_GITHUB + "focalnet_tiny_lrf.pth", top1=82.3, **_FOCALNET),
    ),
    "focalnet_small_srf": (
        Weights(tag="in1k", url=_GITHUB + "focalnet_small_srf.pth", top1=83.4, **_FOCALNET),
    ),
    "focalnet_small_lrf": (
        Weights(tag="in1k", url=_GITHUB + "focalnet_small_lrf.pth", top1=83.5, **_FOCALNET),
    ),
    "focalnet_base_srf": (
        Weights(tag="in1k", url=_GITHUB + "focalnet_base_srf.pth", top1=83.7, **_FOCALNET),
    ),
    "focalnet_base_lrf": (
        Weights(tag="in1k", url=_GITHUB + "focalnet_base_lrf.pth", top1=83.9, **_FOCALNET),
    ),
    "focalnet_tiny_iso": (
        Weights(tag="in1k", obtain=_azure("focalnet_tiny_iso_16.pth"), top1=74.1, **_FOCALNET),
    ),
    "focalnet_small_iso": (
        Weights(tag="in1k", obtain=_azure("focalnet_small_iso_16.pth"), top1=80.9, **_FOCALNET),
    ),
    "focalnet_base_iso": (
        Weights(tag="in1k", obtain=_azure("focalnet_base_iso_16.pth"), top1=82.4, **_FOCALNET),
    ),
    "focalnet_large_fl3": (Weights(url=_GITHUB + "focalnet_large_lrf_384.pth", **_FOCALNET_384),),
    "focalnet_large_fl4": (
        Weights(url=_GITHUB + "focalnet_large_lrf_384_fl4.pth", **_FOCALNET_384),
    ),
    "focalnet_xlarge_fl3": (Weights(url=_GITHUB + "focalnet_xlarge_lrf_384.pth", **_FOCALNET_384),),
    "focalnet_xlarge_fl4": (
        Weights(url=_GITHUB + "focalnet_xlarge_lrf_384_fl4.pth", **_FOCALNET_384),
    ),
    "focalnet_huge_fl3": (
        Weights(
            url=_HF_TIMM + "focalnet_huge_fl3.ms_in22k/resolve/main/model.safetensors",
            **_FOCALNET_22K,
        ),
    ),
    "focalnet_huge_fl4": (
        # This file has no classifier; the variant has one of 21 842 classes all the same.
        Weights(
            url=_HF_TIMM + "focalnet_huge_fl4.ms_in22k/resolve/main/model.safetensors",
            **_FOCALNET_22K,
        ),
    ),
    "transnext_micro": (
        Weights(
            tag="in1k",
            url=_HF_TRANSNEXT + "micro-224-1k/resolve/main/transnext_micro_224_1k.pth",
            top1=82.5,
            **_TRANSNEXT,
        ),
    ),
    "transnext_tiny": (
        Weights(
            tag="in1k",
            url=_HF_TRANSNEXT + "tiny-224-1k/resolve/main/transnext_tiny_224_1k.pth",
            top1=84.0,
            **_TRANSNEXT,
        ),
    ),
    "transnext_small": (
        Weights(
            tag="in1k",
            url=_HF_TRANSNEXT + "small-224-1k/resolve/main/transnext_small_224_1k.pth",
            top1=84.7,
            **_TRANSNEXT,
        ),
        Weights(
            url=_HF_TRANSNEXT + "small-384-1k-ft-1k/resolve/main/transnext_small_384_1k_ft_1k.pth",
            top1=86.0,
            **_TRANSNEXT_384,
        ),
    ),
    "transnext_base": (
        Weights(
            tag="in1k",
            url=_HF_TRANSNEXT + "base-224-1k/resolve/main/transnext_base_224_1k.pth",
            top1=84.8,
            **_TRANSNEXT,
        ),
        Weights(
            url=_HF_TRANSNEXT + "base-384-1k-ft-1k/resolve/main/transnext_base_384_1k_ft_1k.pth",
            top1=86.2,
            **_TRANSNEXT_384,
        ),
    ),
    "transnext_micro_aaaa": (
        Weights(
            tag="in1k_256",
            url=_HF_TRANSNEXT + "micro-AAAA-256-1k/resolve/main/transnext_micro_AAAA_256_1k.pth",
            input_size=256,
            top1=82.6,
            **_TRANSNEXT,
        ),
    ),
    "cloformer_xxs": (Weights(tag="in1k", top1=77.0, **_CLOFORMER),),
    "cloformer_xs": (Weights(tag="in1k", top1=79.8, **_CLOFORMER),),
    "cloformer_s": (Weights(tag="in1k", top1=81.6, **_CLOFORMER),),
    "cloformer_xxs_global": (Weights(tag="in1k", **_CLOFORMER),),
    "cloformer_xxs_no_global": (Weights(tag="in1k", **_CLOFORMER),),
    "dat_tiny": (Weights(tag="in1k", top1=82.0, **_DAT),),
    "dat_small": (Weights(tag="in1k", **_DAT),),
    "dat_base": (Weights(tag="in1k", **_DAT),),
    "dat_base_384": (Weights(tag="in1k", input_size=384, crop_pct=1.0, **_DAT),),
    "dat_pp_tiny": (
        Weights(
            tag="in1k",
            obtain=_tsinghua("14c5ddae10b642e68089", "1I08oJlXNtDe8jJPxHkroxUi7lYX2lhVc"),
            top1=83.9,
            **_DAT_PP,
        ),
    ),
    "dat_pp_small": (
        Weights(
            tag="in1k",
            obtain=_tsinghua("4c2a76360c964fbd81d5", "1UUmQqQYY5OInVuXvUgO41Gice93vJ0A7"),
            top1=84.6,
            **_DAT_PP,
        ),
    ),
    "dat_pp_base": (
        Weights(
            tag="in1k",
            obtain=_tsinghua("8e30492404d348d89f25", "1Avu16r59koxizoSYhfaCdNdr-QxLVGjd"),
            top1=84.9,
            **_DAT_PP,
        ),
        Weights(
            tag="in1k_384",
            obtain=_tsinghua("032dc804cdf44bf18bb5", "1m8E2U4iQ6EOe1e8SuAGPbPlPhISXnVWq"),
            input_size=384,
            crop_pct=1.0,
            top1=85.9,
            **_DAT_PP,
        ),
    ),
    "dat_p_tiny": (
        Weights(
            tag="in1k",
            obtain="The authors never published weights of this ablation.",
            **_DAT_PP,
        ),
    ),
    "efficientmod_xxs": (
        Weights(
            tag="in1k_dist",
            obtain=_drive_folder("1c0dlnN7w1bHlAsKcJFhGVA2mIhoA6ZHz"),
            top1=77.1,
            **_EFFICIENTMOD,
        ),
    ),
    "efficientmod_xs": (
        Weights(
            tag="in1k_dist",
            obtain=_drive_folder("1PPQFO891WfJRUiH58NlWOgHDEzDnwC0_"),
            top1=79.4,
            **_EFFICIENTMOD,
        ),
    ),
    "efficientmod_s": (
        Weights(
            tag="in1k_dist",
            obtain=_drive_folder("1rJs8LcWmdTFmj-IJ0cmlVp_MxGfZFsFk"),
            top1=81.9,
            **_EFFICIENTMOD,
        ),
    ),
    "efficientmod_s_conv": (
        Weights(
            tag="in1k",
            obtain=_drive_folder("1EY637XRiDPL4AwrVGESJWsK-ZP2GhnaI"),
            top1=80.5,
            **_EFFICIENTMOD,
        ),
    ),
}

# Published ImageNet-1K top-1 of networks in timm, by the side of the images in pixels:
# arXiv 2201.03545, 2103.14030, 2206.02680, 1905.02244, github.com/mit-han-lab/efficientvit,
# 2307.09283 (distilled).
PEER_TOP1: dict[str, dict[int, float]] = {
    "timm:convnext_tiny": {224: 82.1},
    "timm:swin_tiny_patch4_window7_224": {224: 81.3},
    "timm:mobilevitv2_100": {256: 78.1},
    "timm:mobilenetv3_large_100": {224: 75.2},
    "timm:efficientvit_b1": {224: 79.4, 256: 79.9, 288: 80.4},
    "timm:repvit_m1_0": {224: 80.0},
}


def published_top1(name: str, image_size: int) -> float | None:
    """What a network's authors report for images of this size, in per cent; None if unknown.

    Args:
        name: as for `foveal.create_model`, with a checkpoint's tag or without.
        image_size: side in pixels.
    """
    if name in PEER_TOP1:
        return PEER_TOP1[name].get(image_size)
    variant, _, tag = name.removeprefix("foveal_").partition(".")
    records = (w for w in WEIGHTS.get(variant, ()) if not tag or w.tag == tag)
    return next((w.top1 for w in records if w.input_size == image_size), None)


def timm_cfg(weights: Weights, reduction: int) -> dict[str, Any]:
    """timm's record of a checkpoint, for a network whose last map has one cell per `reduction`."""
    side = weights.input_size
    return {
        "url": weights.url,
        "num_classes": weights.num_classes,
        "input_size": (3, side, side),
        "min_input_size": (3, 32, 32),
        "pool_size": (side // reduction, side // reduction),
        "crop_pct": weights.crop_pct,
        "interpolation": "bicubic",
        "mean": weights.mean,
        "std": weights.std,
        "first_conv": "stem.proj",
        "classifier": "head.fc",
        "license": weights.licence,
        "paper_ids": f"arXiv:{weights.paper}",
        "notes": (weights.obtain,) if weights.obtain else None,
    }
