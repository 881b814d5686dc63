"""Looks at an image from windows, mirrors and scales, against what they have to come to."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.errors import OptionError
from foveal.tools.segment import (
    MULTI_SCALE,
    SegmentInference,
    at_scales,
    in_windows,
    look_of,
    mirrored,
    segment,
    whole,
)

INFERENCES = {
    "whole": SegmentInference(),
    "windows": SegmentInference(window=20),
    "windows, some at once": SegmentInference(window=24, stride=10, windows_at_once=3),
    "mirrored": SegmentInference(flip=True),
    "scales": SegmentInference(scales=MULTI_SCALE),
    "everything": SegmentInference(window=20, flip=True, scales=MULTI_SCALE, windows_at_once=2),
}


class Constant(nn.Module):
    """The same scores everywhere, whatever the image."""

    def forward(self, images: Tensor) -> Tensor:
        scores = torch.tensor([0.5, -1.0, 2.0]).view(1, 3, 1, 1)
        return scores.expand(len(images), 3, *images.shape[-2:])


class Convolution(nn.Sequential):
    """Scores that depend on the neighbourhood, and on which side of it is which."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 4, 5, padding=2))


def photographs(height: int = 37, width: int = 50) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("inference", INFERENCES.values(), ids=INFERENCES.keys())
def test_a_constant_network_gives_its_probabilities_from_everywhere(inference: SegmentInference):
    expected = torch.tensor([0.5, -1.0, 2.0]).softmax(0).view(1, 3, 1, 1).expand(2, 3, 37, 50)
    torch.testing.assert_close(look_of(Constant(), inference)(photographs()), expected)


@pytest.mark.parametrize("inference", INFERENCES.values(), ids=INFERENCES.keys())
def test_probabilities_sum_to_one(inference: SegmentInference):
    with torch.inference_mode():
        seen = look_of(Convolution(), inference)(photographs())
    assert seen.shape == (2, 4, 37, 50)
    torch.testing.assert_close(seen.sum(1), torch.ones(2, 37, 50))


@pytest.mark.parametrize("window", [50, 64])
def test_a_window_of_the_whole_image_is_the_whole_image(window: int):
    look = whole(Convolution())
    assert torch.equal(in_windows(look, window)(photographs()), look(photographs()))


def by_hand(
    look: Callable[[Tensor], Tensor], images: Float[Tensor, "b c h w"], window: int, stride: int
) -> Tensor:
    """Pixel by pixel: the mean over the windows that see it."""
    height, width = images.shape[-2:]
    tops = sorted({*range(0, height - window, stride), height - window})
    lefts = sorted({*range(0, width - window, stride), width - window})
    seen = [(y, x, look(images[..., y : y + window, x : x + window])) for y in tops for x in lefts]
    out = torch.empty(len(images), 4, height, width)
    for i in range(height):
        for j in range(width):
            inside = [
                part[..., i - y, j - x]
                for y, x, part in seen
                if 0 <= i - y < window and 0 <= j - x < window
            ]
            out[..., i, j] = torch.stack(inside).mean(0)
    return out


@pytest.mark.parametrize(("window", "stride", "at_once"), [(16, 10, 1), (16, 16, 3), (30, 7, 4)])
def test_overlapping_windows_are_averaged(window: int, stride: int, at_once: int):
    with torch.inference_mode():
        look = whole(Convolution())
        found = in_windows(look, window, stride, at_once)(photographs())
        torch.testing.assert_close(found, by_hand(look, photographs(), window, stride))


def test_the_stride_is_two_thirds_of_the_window_and_the_last_window_ends_with_the_image():
    seen: list[Tensor] = []

    def look(images: Tensor) -> Tensor:
        seen.append(images[0, 0, 0, [0, -1]])
        return images

    columns = torch.arange(1000.0).expand(1, 1, 512, 1000)
    torch.testing.assert_close(in_windows(look, 512)(columns), columns)
    assert [part.tolist() for part in seen] == [[0, 511], [341, 852], [488, 999]]


def test_the_mean_with_the_mirror_image_is_symmetric():
    look = mirrored(whole(Convolution()))
    images = photographs()
    torch.testing.assert_close(look(images.flip(-1)), look(images).flip(-1))
    # Without it the network tells left from right, or this would prove nothing.
    plain = whole(Convolution())
    assert not torch.allclose(plain(images.flip(-1)), plain(images).flip(-1), atol=1e-2)


def test_scale_one_changes_nothing_and_others_do():
    look, images = whole(Convolution()), photographs()
    assert torch.equal(at_scales(look, (1.0,))(images), look(images))
    sizes: list[tuple[int, ...]] = []

    def seen(images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape[-2:]))
        return look(images)

    both = at_scales(seen, (0.5, 2.0))(images)
    assert sizes == [(18, 25), (74, 100)]
    assert not torch.allclose(both, look(images), atol=1e-2)


def test_segment_gives_classes_and_switches_to_evaluation():
    model = nn.Sequential(Convolution(), nn.Dropout(0.9)).train()
    classes = segment(model, photographs())
    assert not model.training
    assert (classes.shape, classes.dtype) == ((2, 37, 50), np.int64)
    expected = Convolution()(photographs()).argmax(1).numpy()
    assert (classes == expected).all()
    with torch.inference_mode():
        everything = look_of(model, INFERENCES["everything"])(photographs()).argmax(1)
    assert (segment(model, photographs(), INFERENCES["everything"]) == everything.numpy()).all()


@pytest.mark.parametrize(
    "options",
    [
        {"window": 0},
        {"window": 20, "stride": 21},
        {"window": 20, "stride": 0},
        {"stride": 10},
        {"scales": ()},
        {"scales": (1.0, -0.5)},
        {"windows_at_once": 0},
    ],
    ids=str,
)
def test_options_that_leave_gaps_or_make_no_sense_are_refused(options: dict[str, object]):
    with pytest.raises(OptionError):
        SegmentInference(**options)  # pyright: ignore[reportArgumentType]
