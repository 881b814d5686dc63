"""The table of published checkpoints, and timm's view of it."""

import logging
import warnings
from typing import Any

import pytest
import timm

import foveal
from foveal.errors import FovealError
from foveal.models.weights import WEIGHTS

VARIANTS = foveal.list_models()
IN_22K = {v for v in VARIANTS if any(size in v for size in ("large", "huge"))}
INPUT_SIZE = {"transnext_micro_aaaa": 256, "dat_base_384": 384} | {
    v: 384 for v in IN_22K if "large" in v
}


def test_every_variant_has_a_record_and_every_record_a_variant():
    assert sorted(WEIGHTS) == sorted(VARIANTS)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_record_is_whole(variant: str):
    tags = [w.tag for w in WEIGHTS[variant]]
    assert len(set(tags)) == len(tags)
    for weights in WEIGHTS[variant]:
        assert weights.licence in ("MIT", "Apache-2.0")
        assert len(weights.paper) == 10
        assert bool(weights.url) != bool(weights.obtain), "a link, or else where to look"
        assert weights.url is None or weights.url.startswith("https://")
        assert weights.top1 is None or 70 < weights.top1 < 90


@pytest.mark.parametrize("variant", VARIANTS)
def test_timm_knows_the_default(variant: str):
    cfg = timm.get_pretrained_cfg(f"foveal_{variant}", allow_unregistered=False)
    assert cfg is not None
    side = INPUT_SIZE.get(variant, 224)
    cell = 16 if variant.endswith("_iso") else 32
    assert cfg.tag == WEIGHTS[variant][0].tag
    assert cfg.input_size == (3, side, side)
    assert cfg.pool_size == (side // cell, side // cell)
    assert cfg.min_input_size == (3, 32, 32)
    assert cfg.num_classes == (21842 if variant in IN_22K else 1000)
    assert (cfg.first_conv, cfg.classifier) == ("stem.proj", "head.fc")
    assert cfg.license == WEIGHTS[variant][0].licence


@pytest.mark.parametrize("variant", VARIANTS)
def test_creating_a_model_warns_of_nothing(variant: str, caplog: pytest.LogCaptureFixture):
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        model = foveal.create_model(variant, device="meta")
        timm.create_model(f"foveal_{variant}", device="meta")
    assert not caplog.records
    assert model.num_classes == (21842 if variant in IN_22K else 1000)


def test_what_can_be_downloaded_is_listed_alike_by_timm():
    ours = foveal.list_models(pretrained=True)
    assert "transnext_small.in1k_384" in ours
    assert not any(name.startswith(("cloformer", "dat_", "efficientmod")) for name in ours)
    with_tags = timm.list_pretrained("foveal_*")
    assert sorted(f"foveal_{name}" for name in ours) == sorted(with_tags)


def test_tags_choose_the_configuration():
    cfg: Any = foveal.create_model("transnext_small.in1k_384", device="meta").pretrained_cfg
    assert cfg["input_size"] == (3, 384, 384)
    assert cfg["pool_size"] == (12, 12)


def test_the_distilled_scores_are_marked():
    assert WEIGHTS["efficientmod_xxs"][0].tag == "in1k_dist"
    assert WEIGHTS["efficientmod_s_conv"][0].tag == "in1k"


@pytest.mark.parametrize("create", [foveal.create_model, timm.create_model])
def test_an_unknown_tag_names_the_known_ones(create):
    prefix = "" if create is foveal.create_model else "foveal_"
    with pytest.raises(FovealError, match=r"'in1k_385'.*Did you mean.*in1k, in1k_384"):
        create(f"{prefix}transnext_small.in1k_385")
