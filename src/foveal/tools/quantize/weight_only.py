"""Weight-only int8 through torchao: weights per output channel, activations in float."""

import copy
import logging
import os
import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int8
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from foveal.errors import MissingExtraError
from foveal.tools.export.formats import Run
from foveal.tools.quantize.layers import Layer, relative_error
from foveal.tools.quantize.weights import SCALE, product
from foveal.tools.trained import TrainedModel, load_trained
from foveal.train.checkpoint import write_weights

# Images at a time where layers are ranked.
BATCH = 16


class WeightQuantizer:
    """A network, ready to be written with the weights of any of its layers in 8 bits.

    Args:
        trained: the network, on the CPU. It is left as it is.
        images: to rank layers with; no range is taken from them.
        folder: for files of its own.

    Raises:
        MissingExtraError: torchao is not installed.
    """

    def __init__(self, trained: TrainedModel, images: Float[np.ndarray, "n c h w"], folder: Path):
        _require_torchao()
        self.trained = trained
        self.images = torch.from_numpy(images)
        self.model = copy.deepcopy(trained.model)
        self.layers = tuple(
            Layer(name, module.weight.numel()) for name, module in _weighted(trained.model)
        )
        float_file = folder / "float.safetensors"
        write_weights(float_file, trained.model.state_dict(), trained.card.to_metadata())
        self.float_bytes = float_file.stat().st_size
        self._expected: np.ndarray | None = None

    def write(self, path: Path, floats: Collection[str] = ()) -> None:
        """The file, with the layers of these names in float."""
        state = dict(self.trained.model.state_dict())
        for layer in self.layers:
            if layer.name not in floats:
                name = f"{layer.name}.weight"
                state[name], state[f"{layer.name}.{SCALE}"] = rounded(state[name])
        write_weights(path, state, self.trained.card.to_metadata())

    def open(self, path: Path) -> Run:
        """What runs a file that was written: the network with weights of 8 bits in memory."""
        model = load_quantized(path).model

        def run(image: Tensor) -> list[np.ndarray]:
            with torch.inference_mode():
                return [model(image).numpy()]

        return run

    def error_alone(self, layer: Layer, count: int) -> float:
        """What the outputs for the first images differ by if this layer alone is in 8 bits."""
        if self._expected is None:
            self._expected = self._outputs(count)
        weight = self.model.get_submodule(layer.name).weight
        assert isinstance(weight, Tensor)
        before = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(product(*rounded(before)))
            error = relative_error(self._outputs(count), self._expected)
            weight.copy_(before)
        return error

    def _outputs(self, count: int) -> np.ndarray:
        with torch.inference_mode():
            outputs = [self.model(batch) for batch in self.images[:count].split(BATCH)]
        return torch.cat(outputs).numpy()


def rounded(weight: Float[Tensor, "n ..."]) -> tuple[Int8[Tensor, "n ..."], Float[Tensor, " n"]]:
    """Integers and a scale for each row, as torchao chooses them for a linear layer."""
    _require_torchao()
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    rows = weight.detach().float().flatten(1)
    linear = nn.Linear(rows.shape[1], rows.shape[0], bias=False)
    linear.weight = nn.Parameter(rows.contiguous(), requires_grad=False)
    # Its settings for a compiler would hold for the whole process.
    quantize_(linear, Int8WeightOnlyConfig(set_inductor_config=False))
    found = linear.weight
    return found.qdata.reshape(weight.shape), found.scale.reshape(-1).float()  # pyright: ignore[reportAttributeAccessIssue]


class _Product(nn.Module):
    """A parametrisation: the weight is made anew, from integers, each time it is asked for."""

    scale: Tensor

    def __init__(self, scale: Float[Tensor, " n"]):
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, integers: Int8[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        return product(integers, self.scale)


def load_quantized(path: str | os.PathLike[str]) -> TrainedModel:
    """The model in a file of weights of 8 bits, which they stay in memory.

    `load_trained` reads the same file into an ordinary network: the same outputs, faster, in four
    times the memory. Neither needs torchao.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
    """
    trained = load_trained(path)
    state = load_file(path)
    for name, module in _weighted(trained.model):
        scale = state.get(f"{name}.{SCALE}")
        if scale is not None:
            integers = nn.Parameter(state[f"{name}.weight"], requires_grad=False)
            module.weight = integers
            # What it checks is the type of the numbers, which here is meant to change.
            parametrize.register_parametrization(module, "weight", _Product(scale), unsafe=True)
    return trained


def _weighted(model: nn.Module) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]


def _require_torchao() -> None:
    # What it and PyTorch tell each other on import is of no use to a person who quantises.
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torchao.quantization  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("torchao", "quant") from error
    finally:
        logging.disable(before)
