"""One model object, every image size, no re-creation; and errors for what is no image."""

import subprocess
import sys

import pytest
import torch

import foveal
from tests.models.families import SHALLOW, SMALLEST, shallow, shallow_features, stir

SIZES = [(224, 224), (97, 131), (640, 480), (33, 32), (32, 300), (1024, 1024), (32, 32), (50, 224)]


@pytest.mark.parametrize("name", list(SHALLOW))
def test_one_object_takes_every_size(name: str) -> None:
    model = shallow(name)
    for size in SIZES:
        with torch.inference_mode():
            logits = model(torch.randn(1, 3, *size))
        assert logits.shape == (1, 10)
        assert logits.isfinite().all(), size


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("size", [(224, 224), (97, 131), (33, 32), (32, 300)])
def test_a_row_of_a_batch_equals_the_image_alone(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = foveal.create_model(name, num_classes=10).double().eval()
    stir(model)
    images = torch.randn(3, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        together = model(images)
        alone = torch.cat([model(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(SHALLOW))
@pytest.mark.parametrize("size", [(32, 32), (33, 65), (97, 64)])
def test_every_parameter_gets_a_gradient(name: str, size: tuple[int, int]) -> None:
    model = shallow(name).train()
    model(torch.randn(2, 3, *size)).square().mean().backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", list(SHALLOW))
def test_training_after_inference_mode(name: str) -> None:
    """Tables made in inference mode must not reach a training step."""
    model = shallow(name)
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        model(image)
    model.train()(image).sum().backward()


@pytest.mark.parametrize("name", list(SHALLOW))
@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (torch.zeros(1, 3, 31, 64), "at least 32 pixels"),
        (torch.zeros(1, 3, 64, 16), "at least 32 pixels"),
        (torch.zeros(1, 1, 64, 64), "Expected 3 channels, got 1"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), "floating-point pixels, got torch.uint8"),
        (torch.zeros(3, 64, 64), "image batch"),
        (torch.zeros(1, 3, 64, 64, dtype=torch.float64), "float64"),
    ],
    ids=["low", "narrow", "grey", "uint8", "no batch", "double"],
)
def test_what_is_no_image(name: str, image: torch.Tensor, sentence: str) -> None:
    for model in (shallow(name), shallow_features(name, features_only=True)):
        with pytest.raises(ValueError, match=sentence):
            model(image)


MEASURE = """
import resource, sys, torch, timm, foveal
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = foveal.create_model(sys.argv[1]).eval()
with torch.inference_mode():
    model(torch.randn(1, 3, 1024, 1024))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""


def peak_gib(name: str) -> float:
    """Memory of one 1024 × 1024 image above the bare imports, in a fresh process."""
    run = [sys.executable, "-c", MEASURE, name]
    return float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)


SMALL_SLOW = [
    n
    for n in foveal.list_models()
    if any(s in n for s in ("tiny", "micro", "xxs")) and n not in SMALLEST
]


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
@pytest.mark.parametrize(
    "name", [*SMALLEST, *(pytest.param(n, marks=pytest.mark.slow) for n in SMALL_SLOW)]
)
def test_peak_memory_at_1024(name: str) -> None:
    assert peak_gib(name) < 2
