"""Each mixer alone, and each in the neutral body."""

import pytest
import torch

import foveal
from foveal import mixers
from foveal.errors import OptionError

EVERY = [*mixers.MIXERS.values(), mixers.ConvGLU, mixers.ConvFFN]


@pytest.mark.parametrize("mixer", EVERY, ids=lambda m: m.__name__)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (5, 3), (14, 14), (23, 40)])
def test_any_map(mixer: type[torch.nn.Module], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = mixer(96)
    x = torch.randn(2, 96, *size, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert [name for name, p in layer.named_parameters() if p.grad is None] == []
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("mixer", EVERY, ids=lambda m: m.__name__)
def test_a_misspelt_option(mixer: type[torch.nn.Module]) -> None:
    with pytest.raises(TypeError):
        mixer(96, not_an_option=1)


@pytest.mark.parametrize("name", list(mixers.MIXERS))
def test_readings_are_pure_and_leave_forward_alone(name: str) -> None:
    torch.manual_seed(0)
    layer = mixers.MIXERS[name](96).eval()
    x = torch.randn(1, 96, 12, 10)
    before, attributes = layer(x), dict(vars(layer))
    readings = layer.readings(x)  # type: ignore[operator]
    assert readings
    assert all(isinstance(value, torch.Tensor) for value in readings.values())
    assert dict(vars(layer)) == attributes
    torch.testing.assert_close(layer(x), before)


@pytest.mark.parametrize("name", list(mixers.MIXERS))
def test_the_neutral_body_hosts_it(name: str) -> None:
    options = {"embed_dims": (48, 96, 96, 96), "depths": (1, 1, 1, 1), "num_classes": 5}
    model = foveal.create_model("metaformer_tiny", mixer=name, **options)
    assert model(torch.randn(1, 3, 64, 97)).shape == (1, 5)


def test_the_neutral_body_hosts_your_own() -> None:
    model = foveal.create_model(
        "metaformer_tiny", mixer=lambda dim: torch.nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
    )
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)
    with pytest.raises(OptionError, match="focal_modulation"):
        foveal.create_model("metaformer_tiny", mixer="focal")
    with pytest.raises(OptionError, match="no published weights"):
        foveal.create_model("metaformer_tiny", pretrained=True)


class TestFocalModulation:
    def test_no_levels_is_squeeze_and_excitation(self) -> None:
        """L = 0: one gate per position on the pooled context, multiplied with the query."""
        torch.manual_seed(0)
        layer = mixers.FocalModulation(12, focal_level=0).double()
        x = torch.randn(2, 12, 7, 5, dtype=torch.float64)
        q, z, g = layer.f(x.permute(0, 2, 3, 1)).split((12, 12, 1), -1)
        squeezed = torch.nn.functional.gelu(z.mean((1, 2), keepdim=True))
        modulator = (g * squeezed) @ layer.h.weight.flatten(1).T + layer.h.bias
        torch.testing.assert_close(layer(x), layer.proj(q * modulator).permute(0, 3, 1, 2))

    def test_readings_recombine(self) -> None:
        torch.manual_seed(0)
        layer = mixers.FocalModulation(8, focal_level=3, normalize_modulator=True)
        x = torch.randn(2, 8, 9, 6)
        r = layer.readings(x)
        contexts = [r[f"context_{level}"] for level in range(1, 5)]
        total = sum(z * r["gates"][:, i : i + 1] for i, z in enumerate(contexts)) / 4
        torch.testing.assert_close(layer.h(total), r["modulator"])
        y = layer.proj((r["query"] * r["modulator"]).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(y, layer(x))

    def test_impossible_options(self) -> None:
        with pytest.raises(OptionError, match="odd focal_window"):
            mixers.FocalModulation(8, focal_window=4)


class TestEfficientModulation:
    @pytest.mark.parametrize("ratio", [1, 4])
    def test_readings_recombine(self, ratio: int) -> None:
        torch.manual_seed(0)
        layer = mixers.EfficientModulation(8, ratio)
        x = torch.randn(2, 8, 9, 6)
        r = layer.readings(x)
        product = r["hidden"] * r["context"].repeat(1, ratio, 1, 1)
        y = layer.fc2(product.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        torch.testing.assert_close(y, layer(x))


class TestCloAttention:
    def test_readings_recombine(self) -> None:
        torch.manual_seed(0)
        layer = mixers.CloAttention(32, 8, (2, 3, 3), (3, 5), window_size=4)
        x = torch.randn(2, 32, 9, 6)
        r = layer.readings(x)
        local = [r[f"local_weights_{i}"] * r[f"local_value_{i}"] for i in range(2)]
        pooled = (r["attention"] @ r["value"]).transpose(2, 3).reshape(2, 12, 9, 6)
        torch.testing.assert_close(layer.proj(torch.cat([*local, pooled], 1)), layer(x))

    def test_a_ragged_edge_averages_what_is_there(self) -> None:
        layer = mixers.CloAttention(8, 2, (1, 1), (3,), window_size=4)
        assert layer.pooled is not None
        x = torch.randn(1, 8, 6, 9)
        expected = torch.nn.functional.avg_pool2d(x, 4, ceil_mode=True, count_include_pad=False)
        torch.testing.assert_close(layer.pooled._pool(x), expected)

    def test_impossible_options(self) -> None:
        with pytest.raises(OptionError, match="group_split"):
            mixers.CloAttention(32, 8, (4, 3))
        with pytest.raises(OptionError, match="one kernel size per local group"):
            mixers.CloAttention(32, 8, (4, 4), (3, 5))
