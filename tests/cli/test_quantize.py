"""`foveal quantize` from the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from foveal.tools.trained import load_trained
from tests.cli.conftest import Foveal


def test_weights_alone_and_judged_again(
    foveal: Foveal, trained: Path, folder: Path, tmp_path: Path
) -> None:
    """The file is a checkpoint: `foveal eval` finds the accuracy that the report says."""
    target = tmp_path / "new" / "small.safetensors"
    flags = [f"--output={target}", f"--data={folder}", "--rank-layers", "--fixed"]
    done = foveal("quantize", f"--checkpoint={trained}", *flags, f"--json={tmp_path / 'r.json'}")
    assert done.code == 0, done.err
    header, float32, _, written = (line.split("\t") for line in done.out.splitlines()[:4])
    assert header == ["file", "MB", "% of float32", "top-1 %"]
    assert float32[0] == "float32" and written[0] == "written"
    assert "layers in int8" in done.err and "same class as float32" in done.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["files"] == [str(target)] and len(report["ranking"]) == len(report["layers"])
    judged = foveal("eval", f"--checkpoint={target}", f"--data={folder}", "--json=-", "--split=all")
    assert judged.code == 0, judged.err
    assert load_trained(target).card.classes == ("blue", "green", "red")
    figures = json.loads(judged.out)
    assert figures["num_images"] == 30
    again = foveal("eval", f"--checkpoint={trained}", f"--data={folder}", "--json=-", "--split=all")
    assert json.loads(again.out)["loss"] != figures["loss"]
    if report["accuracy"]["num_images"] == 30:
        assert figures["top1"] == pytest.approx(report["accuracy"]["file"])


def test_onnx(foveal: Foveal, trained: Path, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    target = tmp_path / "a.onnx"
    flags = [f"--output={target}", f"--calibration={folder}", "--calibration-images=8", "--fixed"]
    done = foveal("quantize", f"--checkpoint={trained}", *flags)
    assert done.code == 0, done.err
    assert "Accuracy is unknown" in done.err and "at 32 × 32" in done.err
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output=a.onnx"], "--format onnx needs --calibration DIR"),
        (["--output=a.onnx", "--calibration=none"], "none does not exist; --calibration takes"),
        (["--output=a.onnx", "--calibration=empty"], "empty holds no files"),
        (["--output=a.onnx", "--calibration=broken"], "x.png is not an image that can be read"),
        (["--output=a.bin"], "--output ends in one of .onnx (onnx), .xml (openvino)"),
        (["--output=a.onnx", "--format=openvino"], "named *.xml, got 'a.onnx'"),
        (
            ["--output=a.onnx", "--format=tflite"],
            "--format is one of 'onnx', 'openvino', 'torchao'",
        ),
        (["--output=a.safetensors", "--max-drop=-1"], "0 to 100 percentage points, got -1"),
        (["--output=a.onnx", "--calibration=fine"], "from 64 pixels a side up, got 32 × 32"),
        (["--output=a.onnx", "--calibration-images=0"], "takes 1 image or more, got 0"),
    ],
)
def test_wrong_input_is_one_sentence(
    foveal: Foveal,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "broken", "fine"):
        Path(name).mkdir()
    Path("broken/x.png").write_bytes(b"no image")
    Image.new("RGB", (40, 40)).save("fine/x.png")
    done = foveal("quantize", f"--checkpoint={trained}", *flags)
    assert done.code == 2 and message in done.err
    assert done.err.rstrip().count("\n") == 0
    assert not list(tmp_path.glob("a.*"))


def test_a_network_without_classes(foveal: Foveal, tmp_path: Path) -> None:
    flags = ["--model=efficientmod_xxs", "--option=num_classes=0"]
    done = foveal("quantize", *flags, f"--output={tmp_path / 'a.safetensors'}")
    assert done.code == 2 and "no classifier" in done.err
