"""Weights made to fit a network with other classes, channels, kernels, levels or resolution."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isqrt

import torch
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.nn import functional as F

from foveal.errors import CheckpointError
from foveal.models.convert import squeeze_pointwise

IMAGENET_22K = 21842
TEDDY_BEAR = 850

_FOCAL_KERNEL = re.compile(r".*mixer\.focal_layers\.\d+\.weight")


@dataclass
class Adaptation:
    """Weights on their way into a network.

    Attributes:
        state_dict: by our keys; in the end exactly what the network has, shape by shape.
        target: the network's own state dict.
        fresh: keys that keep the network's initial values.
        changes: what was done, in words, with the keys that it was done to.
    """

    state_dict: dict[str, Tensor]
    target: Mapping[str, Tensor]
    fresh: list[str] = field(default_factory=list)
    changes: dict[str, list[str]] = field(default_factory=dict)

    def change(self, key: str, value: Tensor, sentence: str) -> None:
        self.state_dict[key] = value
        self.changes.setdefault(sentence, []).append(key)

    def drop(self, key: str, sentence: str) -> None:
        del self.state_dict[key]
        self.changes.setdefault(sentence, []).append(key)

    def keep_fresh(self, key: str, sentence: str) -> None:
        self.state_dict[key] = self.target[key]
        self.fresh.append(key)
        self.changes.setdefault(sentence, []).append(key)

    def misshapen(self, key: str) -> bool:
        """Whether both sides have the key, in different shapes."""
        both = key in self.state_dict and key in self.target
        return both and self.state_dict[key].shape != self.target[key].shape

    def resizable(self, key: str) -> bool:
        """Whether only the sizes differ, not the number of dimensions."""
        return self.misshapen(key) and self.state_dict[key].ndim == self.target[key].ndim

    def sentences(self) -> list[str]:
        """The changes, each with the number of tensors it was made to."""
        return [
            f"{sentence} ({len(keys)} tensors)." if len(keys) > 1 else f"{sentence}."
            for sentence, keys in self.changes.items()
        ]


def adapt(
    weights: Mapping[str, Tensor], model: nn.Module, *, without_norm: bool = False
) -> Adaptation:
    """Fit weights to a network, which stays as it is.

    Args:
        weights: by our keys.
        model: gives the shapes, and the values of what stays fresh.
        without_norm: the last norm may be missing, as in the backbone of a detector.

    Raises:
        CheckpointError: something does not fit in a way that has no known remedy; names the keys.
    """
    work = Adaptation(dict(weights), model.state_dict())
    _unify_pointwise(work)
    _fit_classifier(work)
    _fit_image_channels(work)
    _fit_focal_levels(work)
    _fit_focal_kernels(work)
    _fit_position_tables(work, model)
    if without_norm:
        _keep_fresh_norm(work)
    _refuse_misfits(work)
    return work


def _unify_pointwise(work: Adaptation) -> None:
    """1×1 convolutions and linear layers compute the same; not worth a sentence."""
    for key, value in work.state_dict.items():
        if key in work.target:
            work.state_dict[key] = squeeze_pointwise(value, work.target[key].shape)


def _fit_classifier(work: Adaptation) -> None:
    weight, keys = "head.fc.weight", {"head.fc.weight", "head.fc.bias"}
    present, wanted = weight in work.state_dict, weight in work.target
    if present and wanted and not work.resizable(weight):
        return
    if present and not wanted:
        for key in keys:
            if key in work.state_dict:
                work.drop(key, "dropped the checkpoint's classifier: the model has none")
        return
    if not wanted:
        return
    ours = work.target[weight]
    if not present:
        for key in keys:
            work.keep_fresh(
                key,
                f"the checkpoint has no classifier: the model's, of {len(ours)} classes, "
                "keeps its initial values",
            )
        return
    theirs = work.state_dict[weight]
    if len(theirs) == IMAGENET_22K and ours.shape == (1000, theirs.shape[1]):
        sentence = (
            "kept the first 1000 of 21842 rows of the classifier, which are ImageNet-1K's classes; "
            f"row {TEDDY_BEAR} (teddy bear) was never trained, as ImageNet-22K has no images of it"
        )
        for key in keys & work.state_dict.keys():
            work.change(key, work.state_dict[key][:1000], sentence)
        return
    for key in keys:
        work.keep_fresh(
            key,
            f"dropped the classifier of {len(theirs)} classes on {theirs.shape[1]} channels: the "
            f"model's, of {len(ours)} on {ours.shape[1]}, keeps its initial values",
        )


def _fit_image_channels(work: Adaptation) -> None:
    key = "stem.proj.weight"
    if not work.resizable(key):
        return
    theirs, ours = work.state_dict[key], work.target[key]
    if (theirs.shape[0], *theirs.shape[2:]) != (ours.shape[0], *ours.shape[2:]):
        return
    given, wanted = theirs.shape[1], ours.shape[1]
    how = "summed over" if wanted == 1 else "repeated and rescaled from"
    work.change(
        key,
        adapt_input_conv(wanted, theirs, base_chans=given),
        f"image channels: the first convolution takes {wanted}, {how} the checkpoint's {given}",
    )


def _fit_focal_levels(work: Adaptation) -> None:
    """New levels get fresh kernels and gates of zero, so the network computes what it did."""
    for key in [k for k in work.target if k.endswith("mixer.f.weight")]:
        mixer = key.removesuffix("f.weight")
        bias = f"{mixer}f.bias"
        is_focal = f"{mixer}h.weight" in work.target
        if not (is_focal and work.resizable(key) and work.resizable(bias)):
            continue
        theirs, ours = work.state_dict[key], work.target[key]
        dim = ours.shape[1]
        given, wanted = len(theirs) - 2 * dim - 1, len(ours) - 2 * dim - 1
        if theirs.shape[1:] != ours.shape[1:] or given < 0:
            continue
        if wanted < given:
            raise CheckpointError(
                f"The checkpoint has {given} focal levels in {mixer.removesuffix('.mixer.')}, the "
                f"model {wanted}; levels cannot be taken away: create it with focal_levels={given}."
            )
        sentence = f"focal levels: {wanted} instead of {given}, the new ones' gates start at 0"
        for name in (key, bias):
            work.change(name, _with_more_gates(work.state_dict[name], wanted - given), sentence)
        for level in range(given, wanted):
            work.keep_fresh(
                f"{mixer}focal_layers.{level}.weight",
                f"focal level {level + 1}: its kernels keep their initial values",
            )


def _with_more_gates(rows: Tensor, count: int) -> Tensor:
    """`count` rows of zeros before the last row, the gate of the global context."""
    return torch.cat([rows[:-1], rows.new_zeros(count, *rows.shape[1:]), rows[-1:]])


def _fit_focal_kernels(work: Adaptation) -> None:
    for key in work.target:
        if not work.resizable(key) or not _FOCAL_KERNEL.fullmatch(key):
            continue
        theirs, ours = work.state_dict[key], work.target[key]
        given, wanted = theirs.shape[-1], ours.shape[-1]
        if theirs.shape[:2] != ours.shape[:2] or (wanted - given) % 2:
            continue
        margin = (wanted - given) // 2
        how = "padded" if margin > 0 else "cropped"
        work.change(
            key,
            # A negative margin crops.
            F.pad(theirs, [margin] * 4),
            f"focal kernels {how} around their centre from {given}×{given} to {wanted}×{wanted}",
        )


def _fit_position_tables(work: Adaptation, model: nn.Module) -> None:
    for key in work.target:
        path, _, name = key.rpartition(".")
        if name not in ("table", "relative_position_bias_table") or not work.resizable(key):
            continue
        theirs, ours = work.state_dict[key], work.target[key]
        if name == "relative_position_bias_table":
            resized = _resize_window_bias(theirs, ours.shape)
        elif getattr(model.get_submodule(path), "form", None) == "fixed":
            resized = _resize_fixed_bias(theirs, ours.shape)
        else:
            resized = _resize_bias(theirs, ours.shape)
        if resized is not None:
            sizes = f"{_shape(theirs)} to {_shape(ours)}"
            work.change(key, resized, f"position table resized bicubically from {sizes}")


def _resize_bias(table: Tensor, shape: torch.Size) -> Tensor | None:
    """A table of (heads, 2H−1, 2W−1) displacements."""
    if table.ndim != 3 or table.shape[0] != shape[0]:
        return None
    # The table is read with its corners aligned, so its corners must stay where they are.
    return _resize_maps(table, (shape[1], shape[2]), align_corners=True)


def _resize_fixed_bias(table: Tensor, shape: torch.Size) -> Tensor | None:
    """A table of (heads, HW, HkWk) pairs: over the keys of each query, then over the queries."""
    sides = [isqrt(number) for number in (*table.shape[1:], *shape[1:])]
    if table.shape[0] != shape[0] or any(
        side**2 != number
        for side, number in zip(sides, (*table.shape[1:], *shape[1:]), strict=True)
    ):
        return None
    heads, queries, _ = table.shape
    side, key_side, wanted, wanted_keys = sides
    maps = table.reshape(heads * queries, key_side, key_side)
    maps = _resize_maps(maps, (wanted_keys, wanted_keys), align_corners=False)
    maps = maps.reshape(heads, queries, shape[2]).transpose(1, 2).reshape(-1, side, side)
    maps = _resize_maps(maps, (wanted, wanted), align_corners=False)
    return maps.reshape(heads, shape[2], shape[1]).transpose(1, 2).contiguous()


def _resize_window_bias(table: Tensor, shape: torch.Size) -> Tensor | None:
    """A window's ((2w−1)², heads) table."""
    square = _is_square(len(table)) and _is_square(shape[0])
    if table.ndim != 2 or len(shape) != 2 or table.shape[1] != shape[1] or not square:
        return None
    given, wanted = isqrt(len(table)), isqrt(shape[0])
    maps = _resize_maps(table.T.reshape(-1, given, given), (wanted, wanted), align_corners=False)
    return maps.flatten(1).T.contiguous()


def _resize_maps(maps: Tensor, size: tuple[int, int], *, align_corners: bool) -> Tensor:
    """(N, h, w) to (N, *size)."""
    resized = F.interpolate(
        maps[None].float(), size=size, mode="bicubic", align_corners=align_corners
    )
    return resized[0].to(maps.dtype)


def _is_square(number: int) -> bool:
    return isqrt(number) ** 2 == number


def _keep_fresh_norm(work: Adaptation) -> None:
    for key in work.target:
        if key.startswith("norm.") and key not in work.state_dict:
            work.keep_fresh(key, "the checkpoint has no final norm: it keeps its initial values")


def _refuse_misfits(work: Adaptation, limit: int = 4) -> None:
    missing = [k for k in work.target if k not in work.state_dict]
    extra = [k for k in work.state_dict if k not in work.target]
    misshapen = [k for k in work.target if work.misshapen(k)]
    problems = [
        *(
            f"{k} is {_shape(work.state_dict[k])} instead of {_shape(work.target[k])}"
            for k in misshapen
        ),
        *(f"{k} {_shape(work.target[k])} is missing" for k in missing),
        *(f"{k} {_shape(work.state_dict[k])} has no place in the model" for k in extra),
    ]
    if problems:
        more = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
        raise CheckpointError(
            f"The checkpoint does not fit the model: {'; '.join(problems[:limit])}{more}."
        )


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"
