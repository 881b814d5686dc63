"""torch.compile without graph breaks or endless recompilation; torch.export at any size."""

import pytest
import torch
from torch import nn
from torch._C._dynamo.eval_frame import _debug_get_cache_entry_list

import foveal
from foveal.models.backbone import Backbone
from tests.models.families import SHALLOW, SMALLEST, shallow, stir

SIZES = [(256, 192), (224, 224), (97, 131), (64, 96), (320, 224)]
# A square first makes the compiler assume squares, which costs one recompilation.
SQUARE_FIRST = [(224, 224), (97, 131), (256, 192), (64, 96), (320, 224)]


def check_compiled(model: nn.Module, sizes: list[tuple[int, int]]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for size in sizes:
            image = torch.randn(2, 3, *size)
            torch.testing.assert_close(compiled(image), model(image), rtol=1e-3, atol=1e-4)
    graphs = len(_debug_get_cache_entry_list(Backbone.forward.__code__))
    assert 1 <= graphs <= 3, f"{graphs - 1} recompilations"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", list(SMALLEST))
def test_compile(name: str) -> None:
    check_compiled(shallow(name), SIZES)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SMALLEST)
def test_compile_at_full_depth(name: str) -> None:
    model = foveal.create_model(name, num_classes=10).eval()
    stir(model)
    check_compiled(model, SQUARE_FIRST)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", list(SHALLOW))
def test_compiled_gradients(name: str) -> None:
    """The training step under the compiler, ahead-of-time autograd included."""
    model = shallow(name)
    image = torch.randn(2, 3, 64, 96)
    model(image).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    torch._dynamo.reset()
    torch.compile(model, backend="aot_eager", fullgraph=True)(image).square().sum().backward()
    found = [p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-4)


# PyTorch's convolution excludes maps of one cell from what it proves while exporting (a single
# strided convolution shows it), so sides below 64 are promised in eager mode only.
DIMENSIONS = {
    "named": (
        torch.export.Dim("height", min=64, max=2048),
        torch.export.Dim("width", min=64, max=2048),
    ),
    "inferred": (torch.export.Dim.AUTO(min=32, max=2048), torch.export.Dim.AUTO(min=32, max=2048)),
}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", list(SHALLOW))
@pytest.mark.parametrize("kind", ["named", pytest.param("inferred", marks=pytest.mark.slow)])
def test_export_with_dynamic_batch_and_size(name: str, kind: str) -> None:
    model = shallow(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    height, width = DIMENSIONS[kind]
    exported = torch.export.export(
        model,
        (torch.randn(2, 3, 224, 192),),
        dynamic_shapes=({0: batch, 2: height, 3: width},),
    ).module()
    with torch.no_grad():
        for shape in [(2, 3, 224, 192), (1, 3, 97, 131), (3, 3, 64, 320), (1, 3, 512, 65)]:
            image = torch.randn(shape)
            torch.testing.assert_close(exported(image), model(image), rtol=1e-3, atol=1e-4)
