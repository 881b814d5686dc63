"""Where the images come from that tell the ranges of activations."""

from pathlib import Path

import numpy as np
import pytest

from foveal.data.transforms import Preprocessing
from foveal.errors import FovealError
from foveal.tools.quantize.calibration import calibration_images, calibration_sources
from tests.pictures import picture, write_folder

COLOUR = Preprocessing(image_size=32, mean=(0.0,) * 3, std=(1.0,) * 3, crop_pct=1.0)
GREY = Preprocessing(image_size=32, mean=(0.0,), std=(1.0,), crop_pct=1.0)


def test_they_are_spread_over_the_classes(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pictures")
    images = calibration_images(root, COLOUR, 3)
    assert images.shape == (3, 3, 32, 32) and images.dtype == np.float32
    # Blue, the middle of green, red: the strongest channel tells.
    assert images.mean((2, 3)).argmax(1).tolist() == [2, 1, 0]
    assert calibration_images(root, COLOUR, 100).shape[0] == 30
    assert calibration_images(root, GREY, 2).shape == (2, 1, 32, 32)


def test_held_out_images_are_left_alone(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", per_class=2)
    write_folder(tmp_path / "val", per_class=3)
    sources = calibration_sources(tmp_path)
    assert len(sources) == 6 and all("train" in str(source) for source in sources)


def test_parquet_and_a_flat_folder(tmp_path: Path) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    flat = tmp_path / "flat"
    flat.mkdir()
    picture("red", 0).save(flat / "a.png")
    assert calibration_images(flat, COLOUR, 5).shape[0] == 1
    assert calibration_images(flat / "a.png", COLOUR, 5).shape[0] == 1
    data = (flat / "a.png").read_bytes()
    for part, rows in (("train", 3), ("validation", 5)):
        table = pa.table({"image": [{"bytes": data, "path": None}] * rows, "label": [0] * rows})
        (tmp_path / "tables").mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / "tables" / f"{part}-0.parquet")
    assert len(calibration_sources(tmp_path / "tables")) == 3


def test_wrong_input(tmp_path: Path) -> None:
    with pytest.raises(FovealError, match="does not exist; --calibration takes"):
        calibration_images(tmp_path / "none", COLOUR, 4)
    (tmp_path / "note.txt").write_text("no image")
    with pytest.raises(FovealError, match=r"holds files with \.txt"):
        calibration_images(tmp_path, COLOUR, 4)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(FovealError, match=r"broken\.png is not an image that can be read"):
        calibration_images(tmp_path, COLOUR, 4)
