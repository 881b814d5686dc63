"""The model repository for Triton: the network in it, and what its configuration says of it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from examples.serve.triton_repository import main, write_repository

from foveal.errors import FovealError
from tests.examples_serve.servers import small_model

TYPES = {"tensor(float)": "TYPE_FP32"}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small model."""
    return write_repository(small_model(), tmp_path_factory.mktemp("repository"), max_batch=4)


def test_the_files_that_triton_looks_for(written: Path) -> None:
    files = sorted(str(path.relative_to(written)) for path in written.rglob("*") if path.is_file())
    assert files == ["1/model.onnx", "config.pbtxt", "labels.txt"]
    assert written.name == "focalnet_tiny_srf"
    labels = (written / "labels.txt").read_text().splitlines()
    assert labels == list(small_model().card.classes)


def test_any_batch_gives_what_the_network_gives(written: Path) -> None:
    session = onnxruntime.InferenceSession(written / "1" / "model.onnx")
    domains = {node.domain for node in onnx.load(written / "1" / "model.onnx").graph.node}
    assert domains == {""}, "only ONNX's own operators"
    for batch in (1, 3, 4):
        images = torch.randn(batch, 3, 32, 32)
        (found,) = session.run(None, {"image": images.numpy()})
        with torch.inference_mode():
            expected = small_model().model(images).numpy()
        np.testing.assert_allclose(np.asarray(found), expected, atol=1e-4 * np.abs(expected).max())


def test_the_configuration_is_that_of_the_network(written: Path) -> None:
    session = onnxruntime.InferenceSession(written / "1" / "model.onnx")
    text = (written / "config.pbtxt").read_text()
    (given,), (taken,) = session.get_inputs(), session.get_outputs()
    for kind, tensor in (("input", given), ("output", taken)):
        found = re.search(
            rf'^{kind} \[{{ name: "(\w+)" data_type: (\w+) dims: \[([\d, ]+)\]', text, re.MULTILINE
        )
        assert found is not None
        # The batch is Triton's.
        assert isinstance(tensor.shape[0], str)
        assert found[1] == tensor.name and found[2] == TYPES[tensor.type]
        assert [int(size) for size in found[3].split(",")] == tensor.shape[1:]
    assert 'name: "focalnet_tiny_srf"\nbackend: "onnxruntime"\nmax_batch_size: 4\n' in text
    assert "dynamic_batching {" in text and 'label_filename: "labels.txt"' in text
    mean = ", ".join(map(str, small_model().card.preprocessing.mean))
    assert f'key: "mean" value {{ string_value: "{mean}" }}' in text
    assert text.count("{") == text.count("}") and text.count('"') % 2 == 0


def test_what_is_refused(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = small_model()
    with pytest.raises(FovealError, match="is there already"):
        write_repository(trained, written.parent)
    with pytest.raises(FovealError, match="give another --name"):
        write_repository(trained, written.parent, name="../elsewhere")
    with pytest.raises(FovealError, match="several lines"):
        card = replace(trained.card, classes=("a\nb",))
        write_repository(replace(trained, card=card), written.parent, name="lines")
    assert [path.name for path in written.parent.iterdir()] == ["focalnet_tiny_srf"]
    assert main(["--output", "nowhere", "--checkpoint", "nowhere"]) == 2
    assert "There is no checkpoint nowhere" in capsys.readouterr().err
    assert main(["--output", "nowhere", "--max-batch", "0"]) == 2
    assert not Path("nowhere").exists()
