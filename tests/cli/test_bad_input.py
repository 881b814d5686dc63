"""Every wrong input gets one sentence on standard error and exit code 2."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

import foveal as library
from foveal.cli import models
from foveal.cli.main import main, sentence
from foveal.data.images import ImageError
from tests.cli.conftest import MODEL, Foveal

TRAIN = ["train", MODEL, "--data={folder}", "--output={tmp}/run"]
BULK = ["predict", "--data={folder}", "--checkpoint={trained}", "--output={tmp}/a.parquet"]
EVAL = ["eval", "--checkpoint={trained}", "--data={folder}"]

EXPLAIN = ["explain", "{image}", "--output={tmp}/seen"]

EXPORT = ["export", "--checkpoint={trained}"]

# Wrong YAML by the name its file has above.
SETTINGS = {
    "recipe": "recipe: [a]",
    "model": "model: 5",
    "epochs": "train: {epochs: three}",
    "lr": "train: {lr: null}",
    "size": "image_size: big",
    "checkpoint": "checkpoint: [1]",
}

CASES: list[tuple[list[str], list[str]]] = [
    (["trian"], ["no command 'trian'", "'train'"]),
    (["train", "--model=x"], ["needs --data"]),
    ([*TRAIN, "--epoch=3"], ["no option --epoch", "--epochs"]),
    ([*TRAIN, "--max_step", "3"], ["no option --max_step", "--max-steps"]),
    ([*TRAIN, "--epochs=three"], ["--epochs takes a whole number", "'three'"]),
    ([*TRAIN, "--lr=fast"], ["--lr takes a number"]),
    ([*TRAIN, "--epochs=0"], ["epochs is 1 or more"]),
    ([*TRAIN, "--on-bad-image=drop"], ["--on-bad-image", "refuse", "skip"]),
    ([*TRAIN, "--resume", "--overwrite"], ["exclude each other"]),
    ([*TRAIN, "--pretrained", "--checkpoint=x"], ["exclude each other"]),
    ([*TRAIN, "--option=embed_dim"], ["KEY=VALUE"]),
    ([*TRAIN, "--option=embed_dims=16"], ["no option 'embed_dims'", "'embed_dim'"]),
    ([*TRAIN, "--image-size=16"], ["from 32 pixels"]),
    ([*TRAIN, "--checkpoint={tmp}/none"], ["no checkpoint"]),
    ([*TRAIN[:3], "--output={image}"], ["Cannot write to the output folder"]),
    ([*TRAIN[:3], "--output={image}/run"], ["Cannot write to the output folder"]),
    ([*TRAIN[:3], "--output={folder}"], ["in use"]),
    (["train", "--model=focalnet_tinny_srf", *TRAIN[2:]], ["Unknown model", "focalnet_tiny_srf"]),
    (["train", MODEL, "--data={tmp}/none", "--output={tmp}/run"], ["does not exist"]),
    (["train", MODEL, "--data={folder}/red", "--output={tmp}/run"], ["none of class folders"]),
    (["train", MODEL, "--data={hollow}", "--output={tmp}/run"], ["white has no images"]),
    ([*TRAIN, "--recipe=imagenett"], ["no recipe 'imagenett'", "'imagenet'"]),
    (["train", "--model=timm:resnet5", "--recipe=imagenet", *TRAIN[2:]], ["resnet50"]),
    ([*TRAIN, "--mixup=-1"], ["mixup and cutmix are 0 or more"]),
    ([*TRAIN, "--precision=fp8"], ["no option --precision", "--mixed-precision"]),
    ([*TRAIN, "--mixed-precision=fp8"], ["one of no, bf16, fp16", "'fp8'"]),
    ([*TRAIN, "--betas=0.9"], ["--betas takes numbers in brackets"]),
    ([*TRAIN, "--ema-decay=2"], ["ema_decay is more than 0 and at most 1"]),
    ([*TRAIN, "--betas=[2,3]"], ["betas is 0 or more and below 1"]),
    ([*TRAIN, "--clip-grad=-1"], ["clip_grad is more than 0"]),
    ([*TRAIN, "--seed=99999999999"], ["seed is below 2**32"]),
    ([*TRAIN, "--threads=5000"], ["threads is 1 to 1024"]),
    ([*TRAIN, "--label-smoothing=2"], ["label_smoothing is 0 or more and below 1"]),
    ([*TRAIN, "--crop-pct=0"], ["crop_pct is more than 0"]),
    ([*TRAIN, "--drop-path-rate=2"], ["drop_path_rate is 0 or more and below 1"]),
    ([*TRAIN, "--scale=[2,1]"], ["scale is a least and a greatest value"]),
    ([*TRAIN, "--ratio=[0,0]"], ["ratio is a least and a greatest value"]),
    ([*TRAIN, "--hflip=3"], ["hflip lies between 0 and 1"]),
    ([*TRAIN, "--color-jitter=-1"], ["color_jitter is 0 or more"]),
    ([*TRAIN, "--option=num_classes=5"], ["leave num_classes out"]),
    ([*TRAIN, "--option=depths=3"], ["cannot be made with the options {'depths': 3}"]),
    ([*TRAIN, "--recipe="], ["recipe is a name"]),
    ([*TRAIN, "--config={recipe}"], ["recipe is a name", "['a']"]),
    (["train", *TRAIN[2:], "--config={model}"], ["model is a name, got 5"]),
    ([*TRAIN, "--config={epochs}"], ["epochs is a whole number, got 'three'"]),
    ([*TRAIN, "--config={lr}"], ["lr is a number, got None"]),
    ([*TRAIN, "--config={size}"], ["image_size is a whole number or null, got 'big'"]),
    ([*TRAIN, "--config={checkpoint}"], ["--checkpoint takes text, got '[1]'"]),
    ([*TRAIN, "--frozen-stages=9"], ["frozen_stages is 0 to 4"]),
    ([*TRAIN, "--teacher={tmp}/none"], ["none"]),
    ([*TRAIN, "--config={tmp}/none.yaml"], ["Cannot read the configuration"]),
    ([*TRAIN, "--config={image}"], ["is not YAML"]),
    (["train", MODEL, "--output={tmp}/run"], ["needs --data"]),
    (["train", MODEL, "--data={folder}"], ["needs --output"]),
    (["train", "--data={folder}", "--output={tmp}/run"], ["needs --model"]),
    (["predict", "--checkpoint={trained}"], ["needs IMAGE"]),
    (["predict", "{image}", "--checkpoint={tmp}/none"], ["There is no checkpoint"]),
    (["predict", "{image}", "--checkpoint={folder}"], ["neither best.safetensors nor last"]),
    (["predict", "{image}", "--checkpoint={image}"], ["does not say which model"]),
    (["predict", "{tmp}/none.png", "--checkpoint={trained}"], ["none.png", "no such file"]),
    (["predict", "{trained}/config.yaml", "--checkpoint={trained}"], ["is not an image"]),
    (["predict", "{folder}", "--checkpoint={trained}"], ["it is a folder"]),
    (["predict", "{image}", "--model=efficientmod_xx"], ["efficientmod_xxs"]),
    (["predict", "{image}", "--model=cloformer_xxs", "--pretrained"], ["never published"]),
    (["eval", "--checkpoint={trained}", "--data={tmp}/none"], ["does not exist"]),
    (["eval", MODEL, "--option=depths=3", "--data={folder}"], ["cannot be made", "{'depths': 3}"]),
    (["predict", "{image}", MODEL, "--option=depths=3"], ["cannot be made", "{'depths': 3}"]),
    (["eval", "--checkpoint={trained}", "--data={folder}", "--device=no"], ["no device 'no'"]),
    (["eval", "--checkpoint={trained}", "--data={folder}", "--option=a=1"], ["leave --option out"]),
    (["predict", "{image}", "--checkpoint={trained}", "--device=no"], ["no device 'no'"]),
    (["predict", "{image}", "--checkpoint={trained}", "--top=0"], ["--top is 1 or more"]),
    (["predict", "{image}", "--checkpoint={trained}", "--output=a"], ["goes with --data"]),
    (["predict", "--data={parquet}", *BULK[2:]], ["a.parquet is not a parquet", "parquet file.\n"]),
    (
        ["predict", "--data={tar}", *BULK[2:]],
        ["is not a tar that can be read", "invalid header.\n"],
    ),
    ([*BULK[:3], "--output="], ["--data PATH needs --output FILE.parquet"]),
    (["predict", "--data=", *BULK[2:]], ["--data PATH needs --output FILE.parquet"]),
    ([*BULK, "--device=no"], ["no device 'no'"]),
    ([*BULK, "--image-size=64"], ["leave --image-size out"]),
    ([*BULK, "--model=dat_tiny"], ["leave --model out"]),
    ([*EVAL, "--json={image}/a.json"], ["Cannot write", "000.png/a.json"]),
    ([*EVAL, "--csv={folder}"], ["Cannot write", "it is a folder"]),
    ([*EVAL, "--sizes=32,48", "--markdown={image}/a.md"], ["Cannot write", "a.md"]),
    (["predict", "{image}", "--json={image}/a.json"], ["Cannot write", "a.json"]),
    (["explain"], ["needs IMAGE"]),
    ([*EXPLAIN[:1], "{tmp}/none.png", *EXPLAIN[2:]], ["none.png", "no such file"]),
    ([*EXPLAIN, "--models=focalnet_tiny_sr"], ["Unknown model", "focalnet_tiny_srf"]),
    ([*EXPLAIN, "--models=box,,box"], ["separated by commas, got 'box,,box'"]),
    ([*EXPLAIN, "--models={tmp}/none.safetensors"], ["There is no checkpoint"]),
    ([*EXPLAIN, "--models={folder}"], ["neither best.safetensors nor last"]),
    ([*EXPLAIN, "--pretrained"], ["go with --models NAME"]),
    ([*EXPLAIN, "--models=cloformer_xxs", "--pretrained"], ["never published"]),
    ([*EXPLAIN, "--image-size=8"], ["from 32 pixels"]),
    ([*EXPLAIN, "--queries=0"], ["--queries is 1 or more"]),
    ([*EXPLAIN, "--top=0"], ["--top is 1 or more"]),
    ([*EXPLAIN, "--method=gradcamm"], ["--method", "gradcam", "layercam"]),
    ([*EXPLAIN, "--method=none", "--faithful"], ["--faithful needs a --method"]),
    ([*EXPLAIN, "--port=99999"], ["--port is 0 to 65535"]),
    ([*EXPLAIN, "--port=80"], ["--port goes with --serve"]),
    ([*EXPLAIN, "--device=no"], ["no device 'no'"]),
    ([*EXPLAIN[:2], "--output={image}"], ["Cannot write"]),
    (["export", "--checkpoint={trained}"], ["needs --output"]),
    ([*EXPORT, "--output={tmp}/a.tflite"], ["ends in one of .onnx, .pt2, .xml", "--format"]),
    ([*EXPORT, "--output={tmp}/a.onnx", "--format=openvino"], ["named *.xml", "'a.onnx'"]),
    ([*EXPORT, "--output={tmp}/a.onnx"], ["from 64 pixels a side up, got 32 × 32"]),
    ([*EXPORT, "--output={tmp}/a.onnx", "--format=onxx"], ["--format", "onnx", "openvino"]),
    ([*EXPORT, "--output={image}/a.onnx"], ["Cannot write"]),
    ([*EXPORT, "--output={tmp}/a.onnx", "--batch-size=0"], ["--batch-size is 1 or more"]),
    (["models", "resnet"], ["No model matches 'resnet'"]),
    (["convert", "{image}", MODEL, "--output={tmp}/a.safetensors"], ["000.png"]),
    (["convert", "{image}", MODEL, "--output={tmp}/a.pth"], [".safetensors file"]),
    (["convert", "{tmp}/none.pth", MODEL, "--output={tmp}/a.safetensors"], ["none.pth"]),
]


@pytest.mark.parametrize(("argv", "words"), CASES, ids=lambda value: " ".join(value)[:60])
def test_a_sentence(
    foveal: Foveal, folder: Path, trained: Path, tmp_path: Path, argv: list[str], words: list[str]
):
    hollow = tmp_path / "hollow"
    for name in ("red", "white"):
        (hollow / name).mkdir(parents=True)
    (hollow / "red" / "a.png").write_bytes((folder / "red" / "000.png").read_bytes())
    places = {
        "folder": folder,
        "trained": trained,
        "tmp": tmp_path,
        "hollow": hollow,
        "image": folder / "red" / "000.png",
    }
    for suffix in ("parquet", "tar"):
        places[suffix] = tmp_path / "damaged" / f"a.{suffix}"
        places[suffix].parent.mkdir(exist_ok=True)
        places[suffix].write_bytes(b"neither the one nor the other" * 40)
    for name, text in SETTINGS.items():
        places[name] = tmp_path / f"{name}.yaml"
        places[name].write_text(text)
    outcome = foveal(*(argument.format(**places) for argument in argv))
    assert outcome.code == 2
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("a.*"))
    assert outcome.err.startswith("foveal: ") and outcome.err.count("\n") == 1, outcome.err
    assert not outcome.err.endswith("..\n"), outcome.err
    assert all(word in outcome.err for word in words), outcome.err
    assert "Traceback" not in outcome.err


def test_help_and_version(foveal: Foveal):
    assert library.__version__ in foveal("--version").out
    for command in ("train", "eval", "predict", "models", "convert", "quickstart"):
        assert command in foveal("--help").out
        assert foveal(command, "--help").code == 0
    assert main([]) == 2


def huge() -> None:
    torch.empty(2**60)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError()])
def test_too_little_memory_is_a_sentence(
    foveal: Foveal, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    monkeypatch.setattr(models, "run", Mock(side_effect=error))
    outcome = foveal("models")
    assert outcome.code == 2 and outcome.err.startswith("foveal: The memory does not suffice")
    assert "--batch-size" in outcome.err and outcome.err.count("\n") == 1


def test_what_the_processor_says_of_too_little_memory(
    foveal: Foveal, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(models, "run", lambda _: huge())
    assert "The memory does not suffice" in foveal("models").err
    monkeypatch.setattr(models, "run", Mock(side_effect=RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        foveal("models")


def test_an_error_of_a_worker_process_is_a_sentence_too():
    wrapped = ImageError(
        "Caught ImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        "last):\n  File …\nfoveal.data.images.ImageError: a.png is not an image: it is empty.\n"
    )
    assert sentence(wrapped) == "a.png is not an image: it is empty."
