"""Official state dicts to ours and back, for every variant, without allocating a weight."""

import math

import pytest
import torch

import foveal
from foveal.errors import CheckpointError
from tests.golden import cases

OFFICIAL = {cases.OUR_NAMES.get(name, name): name for name in cases.official_state_dicts()}


def official_dict(variant: str, device: str = "meta") -> dict[str, torch.Tensor]:
    recorded = cases.official_state_dicts()[OFFICIAL[variant]]["state_dict"]
    return {
        key: torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        for key, (shape, dtype) in recorded.items()
    }


@pytest.mark.parametrize("variant", foveal.list_models())
def test_keys_and_shapes_are_the_official_ones(variant: str) -> None:
    official = official_dict(variant)
    converted = foveal.convert_state_dict(variant, official)
    model = foveal.create_model(variant, device="meta")
    own = model.state_dict()
    assert set(converted) == set(own)
    assert {k: v.shape for k, v in converted.items()} == {k: v.shape for k, v in own.items()}
    back = foveal.convert_state_dict(variant, converted, to_official=True)
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in official.items()}
    kept = {k for k in official if not cases.is_computed(k)}
    assert all(back[k] is official[k] for k in kept)


@pytest.mark.parametrize("variant", foveal.list_models())
def test_parameter_count(variant: str) -> None:
    model = foveal.create_model(variant, device="meta")
    recorded = cases.official_state_dicts()[OFFICIAL[variant]]["params"]
    assert sum(math.prod(p.shape) for p in model.parameters()) == recorded


def test_37_variants() -> None:
    assert len(foveal.list_models()) == 37
    assert set(foveal.list_models()) == set(OFFICIAL)


@pytest.mark.parametrize(
    "variant",
    ["focalnet_tiny_srf", "transnext_micro", "cloformer_xxs", "dat_tiny", "efficientmod_xxs"],
)
class TestStrictness:
    def test_headless(self, variant: str) -> None:
        official = official_dict(variant)
        heads = [k for k in official if k.startswith(("head.", "cls_head."))]
        headless = {k: v for k, v in official.items() if k not in heads}
        model = foveal.create_model(variant, num_classes=0, device="meta")
        assert set(foveal.convert_state_dict(variant, headless)) == set(model.state_dict())

    def test_a_missing_key(self, variant: str) -> None:
        official = official_dict(variant)
        missing = next(k for k in official if ".weight" in k and "norm" not in k)
        del official[missing]
        with pytest.raises(CheckpointError, match="1 keys missing"):
            foveal.convert_state_dict(variant, official)

    def test_a_foreign_key(self, variant: str) -> None:
        official = official_dict(variant) | {"neck.lateral.weight": torch.empty(1)}
        with pytest.raises(CheckpointError, match=r"neck\.lateral\.weight"):
            foveal.convert_state_dict(variant, official)

    def test_another_family(self, variant: str) -> None:
        other = "dat_tiny" if variant != "dat_tiny" else "focalnet_tiny_srf"
        with pytest.raises(CheckpointError, match="not of this network"):
            foveal.convert_state_dict(variant, official_dict(other))
