"""Classification weights in the backbone of a detector that looks further: the same maps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from foveal.models.pyramid import Pyramid
from tests.models.families import SHALLOW, shallow

IMAGE = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def pyramids(name: str, folder: Path, **options: Any) -> tuple[Pyramid, Pyramid]:
    """Of a classifier's weights: as the classifier is, and with other options."""
    source = shallow(name)
    save_file(source.state_dict(), folder / "classifier.safetensors")
    common = {**SHALLOW[name], "checkpoint": str(folder / "classifier.safetensors")}
    made = []
    for given in ({}, options):
        torch.manual_seed(5)
        made.append(Pyramid(name, **common, **given).eval())
    return made[0], made[1]


@pytest.mark.parametrize("windows", [9, (11, 9, 9, 7)], ids=str)
def test_small_focal_kernels_lie_in_the_middle_of_larger_ones(windows: Any, tmp_path: Path) -> None:
    """The papers' first kernels for boxes: zeros around what was learned, so equal maps."""
    plain, larger = pyramids("focalnet_tiny_srf", tmp_path, focal_windows=windows)
    (note,) = larger.notes
    ours, theirs = larger.state_dict(), plain.state_dict()
    firsts = [windows] * 4 if isinstance(windows, int) else windows
    for stage, first in enumerate(firsts):
        for level in range(2):
            key = f"model.stages.{stage}.blocks.0.mixer.focal_layers.{level}.weight"
            given, wanted = theirs[key].shape[-1], first + 2 * level
            margin = (wanted - given) // 2
            middle = slice(margin, margin + given)
            assert ours[key].shape[-2:] == (wanted, wanted)
            assert torch.equal(ours[key][:, :, middle, middle], theirs[key])
            assert ours[key].count_nonzero() == theirs[key].count_nonzero()
            assert f"focal kernels padded around their centre from {given}×{given} to " in note
            assert f"to {wanted}×{wanted}" in note
    with torch.no_grad():
        for got, expected in zip(larger(IMAGE), plain(IMAGE), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert "focal kernels" not in plain.notes[0]


def test_dat_reads_its_tables_by_position(tmp_path: Path) -> None:
    """Tables of another trained side are resized and said so; corners and centre stay."""
    plain, larger = pyramids("dat_tiny", tmp_path, img_size=384)
    assert "position table resized bicubically" in larger.notes[0]
    ours, theirs = larger.state_dict(), plain.state_dict()
    keys = [key for key in theirs if key.endswith("position_bias.table")]
    assert len(keys) == 2
    for key in keys:
        for place in (0, -1):
            torch.testing.assert_close(ours[key][:, place, place], theirs[key][:, place, place])
        middle = [side // 2 for side in (*theirs[key].shape[1:], *ours[key].shape[1:])]
        torch.testing.assert_close(
            ours[key][:, middle[2], middle[3]], theirs[key][:, middle[0], middle[1]]
        )


def test_a_table_is_read_at_the_place_and_not_at_the_pixel(tmp_path: Path) -> None:
    """A ramp over the table is a ramp over any map, so both trained sides see the same bias."""
    name = "dat_tiny"
    source = shallow(name)
    with torch.no_grad():
        for key, table in source.state_dict().items():
            if key.endswith("position_bias.table"):
                ramp = torch.linspace(-2, 2, table.shape[-1])
                table.copy_(ramp.expand_as(table))
    save_file(source.state_dict(), tmp_path / "ramp.safetensors")
    file = str(tmp_path / "ramp.safetensors")
    seen = []
    for side in (224, 448):
        torch.manual_seed(5)
        pyramid = Pyramid(name, checkpoint=file, img_size=side, **SHALLOW[name]).eval()
        with torch.no_grad():
            seen.append(pyramid(IMAGE))
    for got, expected in zip(*seen, strict=True):
        # Bicubic resizing bends a ramp in the table's outermost cell.
        torch.testing.assert_close(got, expected, rtol=1e-2, atol=1e-2)
    flat = {
        key: torch.zeros_like(value) if key.endswith("position_bias.table") else value
        for key, value in pyramid.model.state_dict().items()
    }
    pyramid.model.load_state_dict(flat)
    with torch.no_grad():
        without = pyramid(IMAGE)
    assert not torch.allclose(without[-1], seen[1][-1], rtol=0.1, atol=0.1)
