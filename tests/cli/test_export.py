"""`foveal export` from the command line."""

from pathlib import Path

from tests.cli.conftest import Foveal


def test_a_run_as_onnx(foveal: Foveal, trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.onnx"
    flags = ["--image-size=64", "--normalize", f"--output={target}"]
    done = foveal("export", f"--checkpoint={trained}", *flags)
    assert done.code == 0, done.err
    header, *rows = (line.split("\t") for line in done.out.splitlines())
    assert header == ["image", "difference from the network"]
    assert [row[0] for row in rows] == [
        "2 × 3 × 64 × 64", "1 × 3 × 64 × 83", "1 × 3 × 64 × 64", "3 × 3 × 89 × 89"
    ]  # fmt: skip
    assert all(float(row[1]) < 1e-4 for row in rows)
    assert "any size" in done.err and f"{target}: focalnet_tiny_srf" in done.err
    assert list(target.parent.iterdir()) == [target]


def test_one_size(foveal: Foveal, trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "a.pt2"
    done = foveal("export", f"--checkpoint={trained}", f"--output={target}", "--fixed")
    assert done.code == 0, done.err
    assert done.out.splitlines()[1].startswith("1 × 3 × 32 × 32\t") and target.exists()
