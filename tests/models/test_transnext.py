"""TransNeXt: mixers and their readings, options, sizes, conversion and parameter counts."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foveal
from foveal.errors import FovealError, OptionError
from foveal.models.transnext import VARIANTS, AggregatedAttention, ConvGLU, FullAttention

GOLDEN = Path(__file__).parents[1] / "golden"
OFFICIAL = {"transnext_micro_aaaa": "transnext_micro_AAAA"}
SMALL: dict[str, Any] = {
    "embed_dims": (24, 24, 48, 48),
    "num_heads": (1, 1, 2, 2),
    "depths": (1, 1, 1, 1),
    "num_classes": 3,
}
MIXERS: dict[str, Any] = {
    "aggregated": lambda: AggregatedAttention(48, sr_ratio=2, pretrain_size=6),
    "interpolated": lambda: AggregatedAttention(
        48, sr_ratio=2, pretrain_size=6, position_bias="interpolate"
    ),
    "fixed_pool": lambda: AggregatedAttention(48, 4, pool_size=3, window_size=5),
    "full": lambda: FullAttention(48),
    "full_interpolated": lambda: FullAttention(48, 4, position_bias="interpolate"),
}
SIZES = [(1, 1), (1, 6), (5, 3), (8, 12), (17, 4)]


def stirred(module: Any) -> Any:
    """In float64, with every parameter away from its initial value."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    return module.double().eval()


def small(name: str = "transnext_micro", **options: Any) -> Any:
    return stirred(foveal.create_model(name, **{**SMALL, **options}))


def naive_window(value: Tensor, head: int, heads: int, window: int) -> Tensor:
    """(b d k2 h w): what each position has in its window."""
    b, c, h, w = value.shape
    mine = value.chunk(heads, 1)[head]
    return F.unfold(mine, window, padding=window // 2).view(b, c // heads, -1, h, w)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["aggregated", "interpolated", "fixed_pool"])
def test_aggregated_readings_recombine(name: str, size: tuple[int, int]) -> None:
    mixer = stirred(MIXERS[name]())
    x = torch.randn(2, 48, *size, dtype=torch.float64)
    seen = mixer.readings(x)
    local = seen["local_attention"] + seen["positional_attention"]
    pooled, heads = seen["pooled_attention"], mixer.num_heads
    window = round(local.shape[-1] ** 0.5)
    parts = []
    for head in range(heads):
        near = naive_window(seen["value"], head, heads, window)
        y = torch.einsum("bdkhw,bhwk->bdhw", near, local[:, head])
        far = seen["pooled_value"].chunk(heads, 1)[head]
        parts.append(y + torch.einsum("bhwuv,bduv->bdhw", pooled[:, head], far))
    y = F.conv2d(torch.cat(parts, 1), mixer.proj.weight[..., None, None], mixer.proj.bias)
    torch.testing.assert_close(mixer(x), y)
    assert seen["temperature"].shape == (heads,)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["full", "full_interpolated"])
def test_full_readings_recombine(name: str, size: tuple[int, int]) -> None:
    mixer = stirred(MIXERS[name]())
    x = torch.randn(2, 48, *size, dtype=torch.float64)
    seen = mixer.readings(x)
    value = seen["value"].unflatten(1, (mixer.num_heads, -1))
    y = torch.einsum("bnhwuv,bnduv->bndhw", seen["attention"], value).flatten(1, 2)
    y = F.conv2d(y, mixer.proj.weight[..., None, None], mixer.proj.bias)
    torch.testing.assert_close(mixer(x), y)


def test_pooling_is_adaptive_and_shared() -> None:
    mixer = stirred(MIXERS["aggregated"]())
    x = torch.randn(2, 48, 7, 9, dtype=torch.float64)
    pooled = F.adaptive_avg_pool2d(F.gelu(mixer.sr(x)), (3, 4)).permute(0, 2, 3, 1)
    value = mixer.kv(mixer.norm(pooled))[..., 48:].permute(0, 3, 1, 2)
    torch.testing.assert_close(mixer.readings(x)["pooled_value"], value)


def test_conv_glu() -> None:
    glu = stirred(ConvGLU(12, 4))
    x = torch.randn(2, 12, 5, 3, dtype=torch.float64)
    assert glu.fc1.out_features == 2 * 32
    a, v = F.conv2d(x, glu.fc1.weight[..., None, None], glu.fc1.bias).split(32, 1)
    gated = F.gelu(F.conv2d(a, glu.dwconv.weight, glu.dwconv.bias, padding=1, groups=32)) * v
    y = F.conv2d(gated, glu.fc2.weight[..., None, None], glu.fc2.bias)
    torch.testing.assert_close(glu(x), y)
    seen = glu.readings(x)
    torch.testing.assert_close(seen["gate"] * seen["value"], gated)


@pytest.mark.parametrize("dim", [1, 20, 48, 64, 128, 320])
def test_any_channel_count_by_default(dim: int) -> None:
    mixer = AggregatedAttention(dim)
    assert dim % mixer.num_heads == 0
    assert mixer(torch.randn(1, dim, 9, 8)).shape == (1, dim, 9, 8)
    assert FullAttention(dim)(torch.randn(1, dim, 3, 2)).shape == (1, dim, 3, 2)


def test_temperature_starts_at_the_papers_value() -> None:
    scale = AggregatedAttention(48).readings(torch.randn(1, 48, 2, 2))["temperature"]
    torch.testing.assert_close(scale, torch.full((2,), 1 / 0.24))


@pytest.mark.parametrize(
    "options",
    [
        {"position_bias": "zero"},
        {"pool_size": 0},
        {"window_size": 4},
        {"sr_ratios": (8, 4, 0, 1)},
        {"sr_ratios": (8, 4)},
        {"token_mixers": "AAAX"},
        {"num_heads": (5, 1, 2, 2)},
        {"pretrain_size": 0},
        {"output_stride": 16},
        {"pool": 7},
    ],
)
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(options)).rstrip("s")):
        foveal.create_model("transnext_micro", **{**SMALL, **options})


@pytest.mark.parametrize("options", [{}, {"position_bias": "interpolate"}, {"pool_size": 7}])
@pytest.mark.parametrize("size", [(32, 32), (33, 32), (32, 300), (97, 131)])
def test_any_size_and_every_gradient(size: tuple[int, int], options: dict[str, Any]) -> None:
    model = small(**options)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    y = model(x)
    torch.testing.assert_close(y[1:], model(x[1:]))
    y.square().sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []


def test_interpolation_at_the_trained_size_is_extrapolation() -> None:
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    outputs = [
        small(pretrain_size=64, position_bias=mode)(x) for mode in ("extrapolate", "interpolate")
    ]
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bfloat16_without_autocast(device: str) -> None:
    model: nn.Module = foveal.create_model("transnext_micro", **SMALL).to(device, torch.bfloat16)
    y = model(torch.randn(1, 3, 64, 96, device=device, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16


def test_features_are_normed_maps() -> None:
    model = small()
    features = model.forward_intermediates(
        torch.randn(1, 3, 64, 96, dtype=torch.float64), intermediates_only=True
    )
    assert [tuple(f.shape[1:]) for f in features] == [
        (24, 16, 24),
        (24, 8, 12),
        (48, 4, 6),
        (48, 2, 3),
    ]
    for stage, feature in zip(model.stages, features, strict=True):
        raw = (feature - stage.norm.bias[:, None, None]) / stage.norm.weight[:, None, None]
        torch.testing.assert_close(raw.mean(1), torch.zeros_like(raw.mean(1)), atol=1e-6, rtol=0)


def test_weight_decay_leaves_position_terms_alone() -> None:
    patterns = small().no_weight_decay()
    assert patterns == {
        "*.temperature",
        "*.query_embedding",
        "*.relative_pos_bias_local",
        "*.position_bias.*",
    }


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    with gzip.open(GOLDEN / "state_dicts.json.gz") as file:
        return json.load(file)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_and_conversion(name: str, official: dict[str, Any]) -> None:
    record = official[OFFICIAL.get(name, name)]
    model = foveal.create_model(name, device="meta")
    assert sum(p.numel() for p in model.parameters()) == record["params"]
    theirs = {
        key: torch.tensor(float(i)).expand(shape)
        for i, (key, (shape, _)) in enumerate(record["state_dict"].items())
    }
    ours = foveal.convert_state_dict(name, theirs)
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    back = foveal.convert_state_dict(name, ours, to_official=True)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], value) for key, value in theirs.items())
    del theirs["block1.0.norm1.weight"]
    with pytest.raises(FovealError, match=r"stages\.0\.blocks\.0\.norm1\.weight"):
        foveal.convert_state_dict(name, theirs)
