"""Bulk predictions: the same as one by one, each image once, resumed, on Ray too."""

import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from foveal.cli.main import main
from foveal.errors import FovealError
from foveal.tools.bulk import BulkJob, Predictor, predict_bulk
from foveal.tools.predict import predict_images
from foveal.tools.trained import load_trained
from foveal.train.checkpoint import read_metadata, write_weights
from tests.cli.conftest import SMALL
from tests.pictures import write_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def checkpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = tmp_path_factory.mktemp("runs") / "run"
    settings = [*SMALL, "--image-size=32", "--max-steps=2", "--workers=0"]
    assert main(["train", *settings, f"--data={folder}", f"--output={output}"]) == 0
    return str(output)


def as_parquet(folder: Path, target: Path) -> Path:
    files = sorted(folder.rglob("*.png"))
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    pq.write_table(pa.table({"image": rows, "label": [0] * len(rows)}), target, row_group_size=7)
    return target


def as_tar(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.add(file, file.relative_to(folder).as_posix())
    return target


@pytest.mark.parametrize("form", ["folder", "parquet", "tar"])
def test_the_same_as_one_by_one(form: str, folder: Path, checkpoint: str, tmp_path: Path) -> None:
    files = sorted(folder.rglob("*.png"))
    data = {"folder": lambda: folder, "parquet": lambda: as_parquet(folder, tmp_path / "a.parquet")}
    path = data.get(form, lambda: as_tar(folder, tmp_path / "a.tar"))()
    output = tmp_path / "out.parquet"
    job = BulkJob(
        checkpoint=checkpoint, data=str(path), output=str(output), batch_size=4, part_size=9
    )
    assert predict_bulk(job) == 30
    rows = pq.read_table(output).to_pylist()
    expected = predict_images(load_trained(checkpoint), files)
    assert [row["prediction"] for row in rows] == [p.top.name for p in expected]
    assert [row["probability"] for row in rows] == pytest.approx(
        [p.top.probability for p in expected], abs=1e-5
    )
    assert all(len(row["classes"]) == 3 and row["error"] is None for row in rows)
    assert len({row["image"] for row in rows}) == 30
    assert not job.parts.exists()


def test_an_interrupted_job_goes_on(
    folder: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = BulkJob(
        checkpoint=checkpoint, data=str(folder), output=str(tmp_path / "o.parquet"), part_size=8
    )
    write, written = Predictor.write_part, []

    def stop_at_the_third(self: Predictor, start: int) -> int:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(start)
        return write(self, start)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "write_part", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            predict_bulk(job)
    with pytest.raises(FovealError, match=r"parts of another job, whose top was 5 and not 1"):
        predict_bulk(replace(job, top=1))
    seen: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "write_part", lambda self, s: seen.append(s) or write(self, s))
        assert predict_bulk(job) == 30
    assert (written, seen) == ([0, 8], [16, 24])
    names = [row["image"] for row in pq.read_table(job.output).to_pylist()]
    assert sorted(names) == sorted(map(str, folder.rglob("*.png"))) and len(set(names)) == 30


def test_unreadable_images_have_a_row_that_says_why(checkpoint: str, tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", per_class=2)
    (data / "red" / "broken.png").write_bytes(b"")
    output = tmp_path / "o.parquet"
    command = ["predict", f"--data={data}", f"--output={output}", f"--checkpoint={checkpoint}"]
    assert main(command) == 0
    rows = pq.read_table(output).to_pylist()
    broken = [row for row in rows if row["error"]]
    assert len(rows) == 7 and len(broken) == 1
    assert "empty" in broken[0]["error"] and broken[0]["prediction"] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": "{tmp}/none"}, "does not exist"),
        ({"data": "{tmp}/empty"}, "holds no image"),
        ({"output": "{tmp}/there.parquet"}, "exists; choose another"),
        ({"checkpoint": "{tmp}/none"}, "no checkpoint"),
    ],
)
def test_a_job_that_cannot_be_done(
    folder: Path, checkpoint: str, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.parquet").touch()
    values = {"checkpoint": checkpoint, "data": str(folder), "output": f"{tmp_path}/o.parquet"}
    values |= {key: value.format(tmp=tmp_path) for key, value in change.items()}
    with pytest.raises(FovealError, match=words):
        predict_bulk(replace(BulkJob(checkpoint="", data="", output=""), **values))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def ray() -> Iterator[None]:
    found = pytest.importorskip("ray", reason="ray is not installed: pip install 'foveal[scale]'")
    found.init(
        num_cpus=2,
        include_dashboard=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},
    )
    yield
    found.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_a_ray_cluster(ray: None, folder: Path, checkpoint: str, tmp_path: Path) -> None:
    alone, spread = (
        BulkJob(checkpoint=checkpoint, data=str(folder), output=str(tmp_path / name), part_size=8)
        for name in ("alone.parquet", "spread.parquet")
    )
    predict_bulk(alone)
    Predictor(spread).write_part(8)
    predict_bulk(spread, engine="ray")
    one, other = (pq.read_table(job.output).to_pylist() for job in (alone, spread))
    assert [row["image"] for row in one] == [row["image"] for row in other]
    assert [row["prediction"] for row in one] == [row["prediction"] for row in other]


def stopped(job: BulkJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job after its first part."""
    write = Predictor.write_part

    def stop_at_the_second(self: Predictor, start: int) -> int:
        if start:
            raise KeyboardInterrupt
        return write(self, start)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Predictor, "write_part", stop_at_the_second)
        predict_bulk(job)


def test_other_weights_under_the_same_name_are_another_job(
    folder: Path, checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run)
    output = str(tmp_path / "o.parquet")
    job = BulkJob(checkpoint=str(run), data=str(folder), output=output, part_size=16)
    stopped(job, monkeypatch)
    weights = {key: 2 * value for key, value in load_file(run / "best.safetensors").items()}
    write_weights(run / "best.safetensors", weights, read_metadata(run / "best.safetensors"))
    with pytest.raises(FovealError, match="another job, whose weights"):
        predict_bulk(job)


@pytest.mark.parametrize("name", ["job.json", "000000000000.parquet"])
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"PAR1"])
def test_damaged_parts_are_named(
    folder: Path,
    checkpoint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: bytes,
) -> None:
    output = str(tmp_path / "o.parquet")
    job = BulkJob(checkpoint=checkpoint, data=str(folder), output=output, part_size=16)
    stopped(job, monkeypatch)
    (job.parts / name).write_bytes(content)
    with pytest.raises(FovealError, match=rf"{name} is damaged.*remove"):
        predict_bulk(job)
    assert not Path(output).exists()
