"""The recorded cases, and how the official names and options translate into ours."""

import gzip
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import foveal
from foveal.models.backbone import Backbone
from foveal.models.family import find_variant
from tests.golden.deterministic import sample, signal, weight

FOLDER = Path(__file__).parent


def read_json(name: str) -> dict[str, Any]:
    return json.loads(gzip.decompress((FOLDER / name).read_bytes()))


CASES = sorted(path.name.removesuffix(".json.gz") for path in FOLDER.glob("*@*.json.gz"))
WITH_GRADIENTS = [name for name in CASES if "grad_norms" in read_json(f"{name}.json.gz")]

OUR_NAMES = {
    "dat_tiny_plus_plus": "dat_pp_tiny",
    "dat_small_plus_plus": "dat_pp_small",
    "dat_base_plus_plus": "dat_pp_base",
    "dat_tiny_plus": "dat_p_tiny",
    "cloformer_global": "cloformer_xxs_global",
    "cloformer_no_global": "cloformer_xxs_no_global",
    "transnext_micro_AAAA": "transnext_micro_aaaa",
}


@dataclass(frozen=True)
class Case:
    """One recorded run of an official network."""

    name: str
    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def is_dense(self) -> bool:
        return self.meta["variant"].endswith("_dense")

    @property
    def official(self) -> str:
        return self.meta["variant"].removesuffix("_dense")

    @property
    def variant(self) -> str:
        return OUR_NAMES.get(self.official, self.official)

    def options(self) -> dict[str, Any]:
        """Our constructor options for the official ones."""
        given = dict(self.meta["options"])
        given.pop("img_size", None)
        ours: dict[str, Any] = {"num_classes": 0} if self.is_dense else {}
        if "is_extrapolation" in given:
            extrapolated = given.pop("is_extrapolation")
            ours["position_bias"] = "extrapolate" if extrapolated else "interpolate"
        if "fixed_pool_size" in given:
            ours["pool_size"] = given.pop("fixed_pool_size")
        if self.variant.startswith("dat"):
            given.pop("pretrain_size", None)
        return {**ours, **given}

    def image(self, dtype: torch.dtype = torch.float64) -> Tensor:
        values = signal("input/" + self.meta["case"], tuple(self.meta["input"]))
        return torch.from_numpy(values).to(dtype)

    def output(self, model: Backbone, image: Tensor) -> Tensor:
        """Logits, or for the dense networks the average of the last map."""
        if not self.is_dense:
            return model(image)
        norm = self.variant.startswith("transnext")
        _, maps = model.forward_intermediates(image, norm=norm)
        return maps[-1].mean((2, 3))


@cache
def official_state_dicts() -> dict[str, Any]:
    return read_json("state_dicts.json.gz")


def load(name: str) -> Case:
    meta = read_json(f"{name}.json.gz")
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return Case(name, meta, dict(arrays))


def is_computed(key: str) -> bool:
    return key.endswith(("attn_mask", "relative_position_index"))


def official_weights(variant: str, model: Backbone) -> dict[str, Tensor]:
    """What the recorded runs had in every parameter of this very model, by official key."""
    keys = foveal.convert_state_dict(variant, model.state_dict(), to_official=True)
    return {
        key: value
        if is_computed(key)
        else torch.from_numpy(np.ascontiguousarray(weight(key, tuple(value.shape))))
        for key, value in keys.items()
    }


def build(case: Case, dtype: torch.dtype = torch.float64) -> Backbone:
    """The network of a case with the weights it was recorded with."""
    model = foveal.create_model(case.variant, **case.options())
    assert isinstance(model, Backbone)
    official = official_weights(case.variant, model)
    model.to(torch.float64)  # before loading, so that the weights keep all their digits
    model.load_state_dict(foveal.convert_state_dict(case.variant, official), strict=True)
    return model.to(dtype).eval()


def relative_error(ours: Tensor, reference: np.ndarray) -> float:
    a = ours.detach().double().numpy()
    return float(np.linalg.norm(a - reference) / max(np.linalg.norm(reference), 1e-30))


def tapped(model: Backbone, variant: str, path: str) -> tuple[nn.Module, str | None]:
    """Our module for an official module path, and the reading to take of it, if not its output."""
    if path.endswith(".mlp.context_layer"):
        return model.get_submodule(
            our_path(variant, path.removesuffix(".context_layer"))
        ), "context"
    return model.get_submodule(our_path(variant, path)), None


def our_path(variant: str, path: str) -> str:
    if path in ("patch_embed", "patch_proj"):
        return "stem"
    if variant.startswith("dat"):  # whose renaming rules name parameters, not whole modules
        return re.sub(r"attns\.(\d+)", r"blocks.\1.mixer", path)
    if path.startswith("layers.") and path.count(".") == 1:
        stage = int(path.split(".")[1])  # an official layer ends with the downsampling
        return f"stages.{stage + 1}.downsample" if stage < 3 else "stages.3"
    family, config = find_variant(variant)
    return first(rule.to_ours(path + ".") for rule in family.renames(config)).rstrip(".")


def in_official_layout(ours: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(ours.shape) == shape:
        return ours
    nhwc = ours.permute(0, 2, 3, 1)
    return nhwc.reshape(shape)


def tap_errors(case: Case, model: Backbone, image: Tensor) -> dict[str, float]:
    """Relative error of every recorded module output."""
    seen: dict[str, Tensor] = {}
    handles = []
    for path in case.meta["taps"]:
        module, reading = tapped(model, case.variant, path)

        def hook(module: Any, inputs: Any, output: Any, path: str = path, reading=reading) -> None:
            seen[path] = module.readings(inputs[0])[reading] if reading else output

        handles.append(module.register_forward_hook(hook))
    with torch.no_grad():
        case.output(model, image)
    for handle in handles:
        handle.remove()
    errors = {}
    for path, record in case.meta["taps"].items():
        ours = in_official_layout(seen[path], tuple(record["shape"]))
        values = torch.from_numpy(sample(ours.double().numpy()))
        errors[path] = relative_error(values, case.arrays[f"tap/{path}"])
    return errors


def backward(case: Case, model: Backbone) -> float:
    """Run the recorded backward pass; the relative error of the input gradient."""
    image = case.image().requires_grad_()
    output = case.output(model, image)
    cotangent = signal("cotangent/" + case.meta["case"], tuple(output.shape))
    output.backward(torch.from_numpy(cotangent))
    assert image.grad is not None
    gradient = torch.from_numpy(sample(image.grad.numpy()))
    return relative_error(gradient, case.arrays["grad/input"])


def official_gradients(variant: str, model: Backbone) -> dict[str, np.ndarray]:
    """The gradient of every parameter, by official key."""
    gradients = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    everything = {**model.state_dict(), **gradients}
    official = foveal.convert_state_dict(variant, everything, to_official=True)
    family, config = find_variant(variant)
    rules = family.renames(config)
    found = {}
    for key, value in official.items():
        ours = None if is_computed(key) else first(rule.to_ours(key) for rule in rules)
        if ours in gradients:
            found[key] = value.numpy()
    return found


def first(names: Iterable[str | None]) -> str:
    return next(name for name in names if name is not None)
