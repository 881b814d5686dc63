"""`foveal eval`: every figure, in every format."""

import csv
import io
import json
import sys
from pathlib import Path

import pytest
import torch

from foveal.cli.tables import Table, to_csv, to_markdown
from foveal.tools.evaluate import EvaluationSettings, evaluate_images, find_images
from foveal.tools.trained import TrainedModel, load_trained
from tests.cli.conftest import SHORT, Foveal
from tests.data.formats import write_plain_parquet
from tests.pictures import picture, write_folder


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures; one that says it is red is blue."""
    folder = write_folder(tmp_path_factory.mktemp("data") / "elsewhere", 4, start=100)
    picture("blue", 200).save(folder / "red" / "100.png")
    return folder


def test_the_console_shows_classes_confusions_and_figures(
    foveal: Foveal, trained: Path, elsewhere: Path
):
    shown = foveal("eval", "--checkpoint", trained, "--data", elsewhere, "--workers", 0)
    assert shown.code == 0 and "12 images: all images of the folder" in shown.err
    assert "red\t4\t3\t75.00" in shown.out and "blue\t4\t4\t100.00" in shown.out
    assert "red\tblue\t1\t25.00" in shown.out
    assert "top-1 91.67 %, top-5 100.00 %, ECE " in shown.out
    assert "images/s in batches of 12 at 32 pixels on " in shown.out
    assert "peak memory" in shown.out


def test_every_format_has_everything(
    foveal: Foveal, trained: Path, elsewhere: Path, tmp_path: Path
):
    command = ["eval", "--checkpoint", trained, "--data", elsewhere, "--workers=0"]
    files = {name: tmp_path / f"figures.{name}" for name in ("json", "csv", "markdown")}
    flags = [f"--{name}={path}" for name, path in files.items()]
    outcome = foveal(*command, *flags)
    assert outcome.code == 0 and "top-1 91.67 %" in outcome.out
    figures = json.loads(files["json"].read_text())
    assert figures["top1"] == pytest.approx(100 * 11 / 12)
    assert 0 < figures["ece"] < 100 and figures["images_per_second"] > 0
    assert figures["confusions"] == [
        {"true": "red", "predicted": "blue", "count": 1, "share": 25.0}
    ]
    rows = list(csv.DictReader(io.StringIO(files["csv"].read_text())))
    by_figure = {row["figure"]: row["value"] for row in rows if row["table"] == "Figures"}
    assert float(by_figure["ECE %"]) == figures["ece"]
    assert [row["class"] for row in rows if row["table"] == "Classes"] == ["blue", "green", "red"]
    assert sum(row["table"] == "Confusions" for row in rows) == 1
    text = files["markdown"].read_text()
    assert "| red | 4 | 3 | 75.00 |" in text and "| true class | taken for |" in text
    assert "| --- | ---: |" in text


def test_one_format_goes_to_standard_output(foveal: Foveal, trained: Path, elsewhere: Path):
    command = ["eval", "--checkpoint", trained, "--data", elsewhere, "--workers=0"]
    both = foveal(*command, "--json=-", "--csv=-")
    assert both.code == 2 and "--json - and --csv -" in both.err
    assert foveal(*command, "--csv=-").out.startswith("table,figure,value,class,images")
    assert foveal(*command, "--batch-size=0").code == 2


def test_files_that_cannot_be_written_cost_no_evaluation(
    foveal: Foveal, trained: Path, elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("foveal.cli.evaluate.chosen_model", lambda options: 1 / 0)
    (tmp_path / "file").touch()
    for name in ("json", "csv", "markdown"):
        flag = f"--{name}={tmp_path / 'file' / 'figures'}"
        outcome = foveal("eval", "--checkpoint", trained, "--data", elsewhere, flag)
        assert outcome.code == 2 and "Cannot write" in outcome.err
    # What can be written is not written yet, nor is its folder made.
    with pytest.raises(ZeroDivisionError):
        foveal("eval", "--checkpoint", trained, "--data", elsewhere, f"--csv={tmp_path}/a/b.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_image_size_can_be_another(foveal: Foveal, trained: Path, elsewhere: Path):
    command = ["eval", "--checkpoint", trained, "--data", elsewhere, "--workers=0", "--json=-"]
    assert json.loads(foveal(*command, "--image-size=48").out)["image_size"] == 48


def test_flipping_takes_the_mean_of_both(trained: Path, elsewhere: Path):
    class LeftHalf(torch.nn.Module):
        """Logits from the left half alone, which no mirror image shares."""

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * x[..., : x.shape[-1] // 2].mean((2, 3))

    card = load_trained(trained).card
    model = TrainedModel(LeftHalf(), card, "here")
    images = find_images(model, elsewhere)
    plain = evaluate_images(model, images)
    flipped = evaluate_images(model, images, EvaluationSettings(flip=True, batch_size=5))

    class Both(LeftHalf):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * x.mean((2, 3))

    whole = evaluate_images(TrainedModel(Both(), card, "here"), images)
    assert flipped.result.loss == pytest.approx(whole.result.loss, rel=1e-6)
    assert flipped.result.loss != pytest.approx(plain.result.loss, rel=1e-6)


def test_tables_keep_precision_in_csv_and_escape_bars_in_markdown():
    table = Table("T", ("name", "value"), (("a|b", 1 / 3), ("c", None)))
    assert to_csv([table]) == f"name,value\na|b,{1 / 3}\nc,\n"
    assert "| a\\|b | 0.33 |" in to_markdown([table]) and "| c | – |" in to_markdown([table])


def test_a_sweep_over_sizes(foveal: Foveal, trained: Path, elsewhere: Path, tmp_path: Path):
    command = ["eval", "--checkpoint", trained, "--data", elsewhere, "--workers=0"]
    outcome = foveal(*command, "--sizes=48,32", "--csv", tmp_path / "sizes.csv")
    assert outcome.code == 0 and "trained at 32 pixels" in outcome.err
    assert outcome.out.startswith("image size\ttop-1 %")
    rows = list(csv.DictReader((tmp_path / "sizes.csv").open()))
    assert [row["image size"] for row in rows] == ["32", "48"]
    assert float(rows[0]["top-1 %"]) == pytest.approx(100 * 11 / 12)
    assert foveal(*command, "--sizes=48", "--image-size=32").code == 2
    wrong = foveal(*command, "--sizes=48;32")
    assert wrong.code == 2 and "like 128,224,384, got '48;32'" in wrong.err


def test_transnexts_modes_stand_side_by_side(foveal: Foveal, folder: Path, tmp_path: Path):
    small = {"embed_dims": "[8,8,16,16]", "num_heads": "[1,1,2,2]", "depths": "[1,1,1,1]"}
    options = [f"--option={key}={value}" for key, value in small.items()]
    run = tmp_path / "run"
    train = ["train", "--model=transnext_micro", *options, "--data", folder, "--output", run]
    assert foveal(*train, "--image-size=64", "--max-steps=1", "--workers=0").code == 0
    command = ["eval", "--checkpoint", run, "--data", folder, "--workers=0", "--sizes=64,96"]
    shown = foveal(*command, "--json", tmp_path / "sizes.json")
    assert "image size\textrapolated\tinterpolated\tlinear" in shown.out
    assert all(title in shown.out for title in ("Top-1 %", "Images per second", "Peak memory"))
    rows = json.loads((tmp_path / "sizes.json").read_text())["rows"]
    assert [(row["image_size"], row["mode"]) for row in rows[:2]] == [
        (64, "extrapolated"),
        (64, "interpolated"),
    ]
    assert "| mode | image size |" in foveal(*command, "--markdown=-").out


def test_without_torchmetrics_the_extra_is_named(
    foveal: Foveal, trained: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "torchmetrics.classification", None)
    outcome = foveal("eval", "--checkpoint", trained, "--data", elsewhere, "--workers=0")
    assert outcome.code == 2 and "pip install 'foveal[train]'" in outcome.err


def test_a_variant_of_imagenet_through_the_command(
    foveal: Foveal, trained: Path, elsewhere: Path, tmp_path: Path
):
    refused = foveal("eval", "--checkpoint", trained, "--data", elsewhere, "--dataset=imagenet-a")
    assert refused.code == 2 and "judges classifiers of ImageNet's 1000 classes" in refused.err
    for number in ("n01498041", "n01531178"):
        (tmp_path / number).mkdir()
        picture("red", 1).save(tmp_path / number / "a.png")
    command = ["eval", "--model=efficientmod_xxs", "--data", tmp_path, "--dataset=imagenet-a"]
    figures = json.loads(foveal(*command, "--image-size=32", "--workers=0", "--json=-").out)
    assert figures["num_images"] == 2 and len(figures["per_class"]) == 200


def test_what_was_trained_on_parquet_is_judged_on_parquet(
    foveal: Foveal, folder: Path, tmp_path: Path
):
    found = [
        (file.stem, file.parent.name, file.read_bytes()) for file in sorted(folder.rglob("*.png"))
    ]
    data = write_plain_parquet(found, tmp_path / "data")
    output = tmp_path / "run"
    assert foveal("train", *SHORT, "--data", data, "--output", output).code == 0
    held = foveal("eval", "--checkpoint", output, "--data", data, "--json=-")
    everything = foveal("eval", "--checkpoint", output, "--data", data, "--json=-", "--split=all")
    assert json.loads(held.out)["num_images"] == 3
    assert json.loads(everything.out)["num_images"] == 30
    last = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    assert json.loads(held.out)["top1"] >= last["top1"]
