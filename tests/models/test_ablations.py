"""The component tables' rows, the families at 4 to 5 million parameters, and `stem_stride`."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foveal
from foveal.errors import FovealError, OptionError
from foveal.models.ablations import ABLATIONS, BODIES, Ablation
from foveal.models.ablations.efficientmod import AblatedEfficientModulation, MBConv
from foveal.models.ablations.focalnet import AblatedFocalModulation
from foveal.models.ablations.transnext import STEPS, RoadAttention
from foveal.models.ablations.van import LargeKernelAttention
from foveal.models.backbone import Backbone
from foveal.models.dat import DeformableAttention
from foveal.models.efficientmod import EfficientModulation
from foveal.models.family import find_variant
from foveal.models.focalnet import FocalModulation
from foveal.models.scaled import SCALED, size_options
from tests.models.families import SHALLOW, shallow, stir

PAGE = Path(__file__).parents[2] / "docs" / "ablations.md"

ROWS = [(table, name) for table, rows in ABLATIONS.items() for name in rows]
BODY_CONFIGS = {name: config for body in BODIES for name, config in body.variants.items()}


def built(row: Ablation, **options: Any) -> Backbone:
    torch.manual_seed(0)
    model = foveal.create_model(row.model, **{"num_classes": 7, **row.options, **options})
    assert isinstance(model, Backbone)
    return model


def num_parameters(model: str, num_classes: int, **options: Any) -> int:
    network = foveal.create_model(model, num_classes=num_classes, device="meta", **options)
    return sum(p.numel() for p in network.parameters())


def fill(parameter: Tensor, value: float) -> None:
    with torch.no_grad():
        parameter.fill_(value)


class TestRows:
    @pytest.mark.parametrize(("table", "name"), ROWS)
    def test_a_row_trains_at_any_size(self, table: str, name: str) -> None:
        model = built(ABLATIONS[table][name], drop_path_rate=0.0)
        for size in ((64, 64), (97, 131)):
            model.zero_grad()
            logits = model(torch.randn(2, 3, *size))
            assert logits.shape == (2, 7)
            assert logits.isfinite().all()
            logits.square().mean().backward()
            gradients = {key: p.grad for key, p in model.named_parameters()}
            assert [key for key, grad in gradients.items() if grad is None] == []
            assert all(grad.isfinite().all() for grad in gradients.values() if grad is not None)

    def test_the_tables(self) -> None:
        assert list(ABLATIONS) == ["transnext_road", "focalnet", "efficientmod", "cloformer", "dat"]
        assert tuple(ABLATIONS["transnext_road"]) == STEPS
        for table, name in ROWS:
            row = ABLATIONS[table][name]
            # A checkpoint's card holds the options as JSON.
            saved = json.loads(json.dumps(dict(row.options)))
            assert num_parameters(row.model, 7, **saved) == num_parameters(
                row.model, 7, **row.options
            )
            assert "arXiv" in row.source
            assert row.published is None or 70 < row.published < 90

    def test_the_page_says_what_they_are(self) -> None:
        page = PAGE.read_text().splitlines()
        for table, name in ROWS:
            row = ABLATIONS[table][name]
            millions = num_parameters(row.model, 100, **row.options) / 1e6
            cells = (f"`{name}`", row.row, f"`{row.model}`", f"{millions:.2f}")
            assert f"| {' | '.join(cells)} | {row.published or '–'} |" in page
        for name, scaled in SCALED.items():
            changed = ", ".join(f"`{k}={v}`" for k, v in scaled.options.items()) or "as published"
            millions = num_parameters(scaled.model, 100, **scaled.options) / 1e6
            assert f"| `{name}` | `{scaled.model}` | {changed} | {millions:.2f} |" in page

    @pytest.mark.parametrize("table", list(ABLATIONS))
    def test_no_two_rows_are_the_same_network(self, table: str) -> None:
        image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        seen: list[tuple[float, ...]] = []
        for row in ABLATIONS[table].values():
            model = built(row).eval()
            stir(model)
            with torch.no_grad():
                logits = tuple(model(image)[0].tolist())
            assert logits not in seen
            seen.append(logits)

    def test_bodies_are_not_listed(self) -> None:
        assert set(BODY_CONFIGS) == {
            "transnext_road",
            "focalnet_ablated",
            "efficientmod_ablated",
            "van_b0",
        }
        assert set(BODY_CONFIGS) & set(foveal.list_models()) == set()
        with pytest.raises(OptionError, match="no published weights"):
            foveal.create_model("van_b0", pretrained=True)

    def test_wrong_options(self) -> None:
        with pytest.raises(OptionError, match="Did you mean 'pixel_focused'"):
            foveal.create_model("transnext_road", step="pixel_focussed")
        with pytest.raises(OptionError, match="leave pool_size out, got 7"):
            foveal.create_model("transnext_road", step="sr_attention", pool_size=7)
        with pytest.raises(OptionError, match="'product' or 'sum', got 'plus'"):
            foveal.create_model("focalnet_ablated", interaction="plus")
        with pytest.raises(OptionError, match="focal_level is at least 1"):
            foveal.create_model("focalnet_ablated", focal_levels=0, global_level=False)
        with pytest.raises(OptionError, match="'product' or 'sum', got 'plus'"):
            foveal.create_model("efficientmod_ablated", interaction="plus")
        with pytest.raises(OptionError, match="modulation, mbconv"):
            foveal.create_model("efficientmod_ablated", unit="mobile")
        with pytest.raises(OptionError, match="Did you mean 'gating'"):
            foveal.create_model("focalnet_ablated", gatings=False)


class TestTransNeXtRoad:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"position_bias": "interpolate", "pretrain_size": 96},
            {"pool_size": 3, "window_size": 5, "qkv_bias": False},
            {"token_mixers": "AAAA", "sr_ratios": (16, 8, 4, 2)},
        ],
        ids=["published", "interpolated", "other sides", "aggregated throughout"],
    )
    def test_it_ends_in_transnext(self, options: dict[str, Any]) -> None:
        torch.manual_seed(0)
        size = {**SCALED["transnext_2m"].options, **SHALLOW["transnext_micro"], **options}
        family = foveal.create_model("transnext_micro", num_classes=7, **size)
        stir(family)
        road = foveal.create_model("transnext_road", num_classes=7, step=STEPS[-1], **size)
        road.load_state_dict(family.state_dict(), strict=True)
        for height, width in ((64, 64), (97, 131), (32, 200)):
            image = torch.randn(2, 3, height, width, dtype=torch.float64)
            with torch.no_grad():
                ours, theirs = (model.double().eval()(image) for model in (road, family))
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)

    @pytest.mark.parametrize("full", [False, True])
    def test_its_last_two_steps_have_one_attention(self, full: bool) -> None:
        last, before = (road_attention(step, full=full) for step in STEPS[:-3:-1])
        before.load_state_dict(last.state_dict())
        x = torch.randn(2, 12, 9, 7)
        assert torch.equal(last(x), before(x))

    def test_its_first_step_is_plain_attention(self) -> None:
        layer = road_attention("sr_attention", full=True)
        plain = nn.MultiheadAttention(12, 3, batch_first=True)
        plain.load_state_dict(
            {
                "in_proj_weight": layer.qkv.weight,
                "in_proj_bias": layer.qkv.bias,
                "out_proj.weight": layer.proj.weight,
                "out_proj.bias": layer.proj.bias,
            }
        )
        x = torch.randn(2, 12, 9, 7)
        tokens = x.flatten(2).transpose(1, 2)
        y = plain(tokens, tokens, tokens)[0].transpose(1, 2).unflatten(2, (9, 7))
        torch.testing.assert_close(layer(x), y)

    def test_averages_are_a_spatial_reduction(self) -> None:
        pool, reduction = road_attention("pool"), road_attention("sr_attention")
        reduction.load_state_dict(pool.state_dict(), strict=False)
        with torch.no_grad():
            weights = torch.eye(12)[:, :, None, None].expand(-1, -1, 2, 2) / 4
            reduction.sr.weight.copy_(weights)
            reduction.get_parameter("sr.bias").zero_()
        x = torch.randn(2, 12, 8, 6)
        torch.testing.assert_close(reduction(x), pool(x))

    @pytest.mark.parametrize(
        ("step", "neutral"),
        [
            ("pixel_focused", {"relative_pos_bias_local": -1e9, "position_bias.fc2.weight": 0.0}),
            ("query_embedding", {"query_embedding": 0.0}),
            ("positional_attention", {"learnable_tokens": 0.0, "learnable_bias": 0.0}),
        ],
    )
    def test_a_step_without_its_part_is_the_step_before(
        self, step: str, neutral: dict[str, float]
    ) -> None:
        layer = road_attention(step)
        before = road_attention(STEPS[STEPS.index(step) - 1])
        x = torch.randn(2, 12, 9, 7)
        before.load_state_dict({k: layer.state_dict()[k] for k in before.state_dict()})
        assert not torch.allclose(layer(x), before(x), atol=1e-4)
        for name, value in neutral.items():
            fill(layer.get_parameter(name), value)
        torch.testing.assert_close(layer(x), before(x))

    @pytest.mark.parametrize("step", STEPS)
    @pytest.mark.parametrize("full", [False, True])
    def test_any_map(self, step: str, full: bool) -> None:
        layer = road_attention(step, full=full)
        for size in ((1, 1), (1, 9), (5, 3), (23, 14)):
            x = torch.randn(2, 12, *size)
            assert layer(x).shape == x.shape
            weights = layer.readings(x)
            if "local_attention" not in weights or not layer._has("positional_attention"):
                total = weights["pooled_attention"].sum((4, 5))
                if "local_attention" in weights:
                    total = total + weights["local_attention"].sum(-1)
                torch.testing.assert_close(total, torch.ones_like(total))


def road_attention(step: str, *, full: bool = False) -> RoadAttention:
    torch.manual_seed(0)
    layer = RoadAttention(12, 3, step, sr_ratio=2, pretrain_size=8, full=full)
    stir(layer)
    with torch.no_grad():  # as after training, not 0.02 from nothing
        for name in ("query_embedding", "learnable_tokens", "relative_pos_bias_local"):
            if hasattr(layer, name):
                layer.get_parameter(name).mul_(50)
    return layer.eval()


class TestFocalModulation:
    def whole_and(self, gates: list[float | None], **options: Any) -> tuple[nn.Module, nn.Module]:
        """A whole modulation with its gates set to constants where given, and an ablated one.

        Both have the same weights otherwise; the ablated one has the gates that are not given.
        """
        torch.manual_seed(0)
        whole = FocalModulation(8, focal_level=3).double()
        ablated = AblatedFocalModulation(8, focal_level=3, **options).double()
        kept = [*range(16), *(16 + i for i, gate in enumerate(gates) if gate is None)]
        with torch.no_grad():
            for index, gate in enumerate(gates):
                if gate is not None:
                    whole.f.weight[16 + index] = 0
                    whole.f.bias[16 + index] = gate
        weights = whole.state_dict()
        if options.get("gating", True):
            weights = {k: v[kept] if k.startswith("f.") else v for k, v in weights.items()}
        else:
            weights = {k: v[:16] if k.startswith("f.") else v for k, v in weights.items()}
        ablated.load_state_dict(weights, strict=True)
        return whole, ablated

    @pytest.mark.parametrize(
        ("gates", "options"),
        [
            ([None, None, None, None], {}),
            ([1, 1, 1, 1], {"gating": False}),
            ([0, 0, None, None], {"hierarchy": False}),
            ([None, None, None, 0], {"global_level": False}),
        ],
        ids=["whole", "no gating", "no hierarchy", "no global level"],
    )
    def test_it_is_the_whole_with_constant_gates(
        self, gates: list[float | None], options: dict[str, bool]
    ) -> None:
        whole, ablated = self.whole_and(gates, **options)
        x = torch.randn(2, 8, 9, 6, dtype=torch.float64)
        torch.testing.assert_close(ablated(x), whole(x))

    def test_the_sum(self) -> None:
        torch.manual_seed(0)
        layer = AblatedFocalModulation(8, interaction="sum")
        x = torch.randn(2, 8, 9, 6)
        parts = layer.readings(x)
        y = layer.proj((parts["query"] + parts["modulator"]).permute(0, 2, 3, 1))
        torch.testing.assert_close(layer(x), y.permute(0, 3, 1, 2))


class TestEfficientModulation:
    @pytest.mark.parametrize("without", [None, "f", "g", "depthwise"])
    def test_a_missing_part_is_the_identity(self, without: str | None) -> None:
        torch.manual_seed(0)
        whole = EfficientModulation(8, 4)
        options: dict[str, Any] = {f"use_{without}": False} if without else {}
        ablated = AblatedEfficientModulation(8, 4, **options)
        ablated.load_state_dict(
            {k: v for k, v in whole.state_dict().items() if k.split(".")[0] != without}
        )
        if without:
            part = whole.get_submodule(without)
            assert isinstance(part, nn.Linear | nn.Conv2d) and part.bias is not None
            with torch.no_grad():
                part.bias.zero_()
                part.weight.zero_()
                if isinstance(part, nn.Conv2d):
                    part.weight[:, :, 3, 3] = 1
                else:
                    part.weight.copy_(torch.eye(8))
        x = torch.randn(2, 8, 9, 6)
        torch.testing.assert_close(ablated(x), whole(x))

    @pytest.mark.parametrize("ratio", [1, 4])
    def test_the_sum(self, ratio: int) -> None:
        torch.manual_seed(0)
        layer = AblatedEfficientModulation(8, ratio, interaction="sum")
        x = torch.randn(2, 8, 9, 6)
        parts = layer.readings(x)
        total = parts["hidden"] + parts["context"].repeat(1, ratio, 1, 1)
        y = layer.fc2(total.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(layer(x), y)

    def test_mbconv(self) -> None:
        torch.manual_seed(0)
        layer = MBConv(6, 3, 5)
        x = torch.randn(2, 6, 9, 4)
        u = F.gelu(F.conv2d(x, layer.fc1.weight[..., None, None], layer.fc1.bias))
        u = F.gelu(F.conv2d(u, layer.depthwise.weight, layer.depthwise.bias, padding=2, groups=18))
        y = F.conv2d(u, layer.fc2.weight[..., None, None], layer.fc2.bias)
        torch.testing.assert_close(layer(x), y)


class TestVAN:
    def test_it_has_the_published_size(self) -> None:
        assert round(num_parameters("van_b0", 1000) / 1e6, 1) == 4.1

    def test_a_large_kernel_sees_23_positions_a_side(self) -> None:
        torch.manual_seed(0)
        layer = LargeKernelAttention(4)
        x = torch.randn(1, 4, 41, 41)
        changed = x.clone()
        changed[..., 20, 20] += 1
        moved = (layer(x) != layer(changed)).any(1)[0].nonzero()
        assert moved.min() == 20 - 11
        assert moved.max() == 20 + 11


class TestScaled:
    def test_four_to_five_million_parameters(self) -> None:
        for name, scaled in SCALED.items():
            # The published two have that many with the classes they were published with.
            classes = 100 if scaled.options else 1000
            count = num_parameters(scaled.model, classes, **scaled.options) / 1e6
            low, high = (1.9, 2.2) if name.endswith("_2m") else (4, 5)
            assert low <= count <= high, (name, count)

    @pytest.mark.parametrize("name", [*SCALED, *BODY_CONFIGS, "metaformer_tiny"])
    def test_the_option_of_size(self, name: str) -> None:
        model = SCALED[name].model if name in SCALED else name
        config = BODY_CONFIGS.get(model)
        if model == "metaformer_tiny":
            known = {"img_size"}
        else:
            known = {field.name for field in fields(config or find_variant(model)[1])}
        expected = known & {"img_size", "pretrain_size"}
        assert size_options(model, 96) == dict.fromkeys(expected, 96)

    @pytest.mark.parametrize("name", SCALED)
    def test_small_images(self, name: str) -> None:
        torch.manual_seed(0)
        scaled = SCALED[name]
        options = {**scaled.options, **size_options(scaled.model, 32), "stem_stride": 2}
        model = foveal.create_model(scaled.model, num_classes=10, **options)
        assert model(torch.randn(2, 3, 32, 32)).isfinite().all()


STEMS: dict[str, dict[str, Any]] = {
    **{name: {} for name in SHALLOW},
    "focalnet_large_fl3": {"depths": (1, 1, 1, 1), "embed_dim": 16},
    "transnext_road": {"depths": (1, 1, 1, 1)},
    "van_b0": {"depths": (1, 1, 1, 1)},
    "metaformer_tiny": {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 96)},
}


class TestStemStride:
    def features(self, name: str, **options: Any) -> Any:
        options = {**SHALLOW.get(name, {}), **STEMS[name], **options}
        return foveal.create_model(name, features_only=True, **options)

    @pytest.mark.parametrize("name", STEMS)
    def test_half_of_it_doubles_every_map(self, name: str) -> None:
        torch.manual_seed(0)
        half = 8 if name.endswith("iso") else 2
        full, fine = self.features(name), self.features(name, stem_stride=half)
        reductions = [r // 2 for r in full.feature_info.reduction()]
        assert fine.feature_info.reduction() == reductions
        image = torch.randn(1, 3, 64, 96)
        for coarse_map, fine_map in zip(full(image), fine(image), strict=True):
            assert fine_map.shape[1] == coarse_map.shape[1]
            assert list(fine_map.shape[2:]) == [2 * side for side in coarse_map.shape[2:]]

    @pytest.mark.parametrize("name", STEMS)
    def test_it_leaves_the_weights_alone(self, name: str) -> None:
        """The default is the published stride; half of it has the same keys and, at half the
        trained size, the same shapes."""
        published = 16 if name.endswith("iso") else 4
        sides = size_options(name, 112)
        shapes = [
            {key: value.shape for key, value in network.state_dict().items()}
            for network in (
                self.features(name),
                self.features(name, stem_stride=published),
                self.features(name, stem_stride=published // 2, **sides),
            )
        ]
        assert shapes[0] == shapes[1] == shapes[2]

    def test_the_published_stride_changes_no_number(self) -> None:
        for name in SHALLOW:
            published = 16 if name.endswith("iso") else 4
            image = torch.randn(1, 3, 64, 64)
            with torch.inference_mode():
                default, stated = shallow(name)(image), shallow(name, stem_stride=published)(image)
            assert torch.equal(default, stated)

    def test_position_tables_follow_it(self) -> None:
        options = {"stem_stride": 2, "device": "meta", "depths": (2, 1, 1, 1)}
        road = foveal.create_model("transnext_road", pretrain_size=64, **options)
        sides = [m.pretrain_size for m in road.modules() if hasattr(m, "pretrain_size")]
        assert sides == [32, 32, 16, 8, 4]
        body = foveal.create_model(
            "metaformer_tiny", mixer="deformable_attention", img_size=64, **options
        )
        sides = [m.table_size[0] for m in body.modules() if isinstance(m, DeformableAttention)]
        assert sides == [32, 32, 16, 8, 4]

    def test_other_strides_are_refused(self) -> None:
        for name, stride in (("transnext_micro", 3), ("dat_tiny", 1), ("focalnet_tiny_iso", 2)):
            with pytest.raises(FovealError, match=f"stem_stride is .* got {stride}"):
                foveal.create_model(name, stem_stride=stride, device="meta")

    def test_with_a_finer_output(self) -> None:
        model = self.features("efficientmod_xxs", stem_stride=2, output_stride=8)
        assert model.feature_info.reduction() == [2, 4, 8, 8]
        assert [m.shape[2] for m in model(torch.randn(1, 3, 64, 64))] == [32, 16, 8, 8]
