"""The state dicts of the official DAT and DAT++: their names for our parts, and their buffers.

A stage stores lists of attentions, norms, MLPs and so on; ours stores blocks.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from foveal.kernels.window_attention import relative_position_index, shift_mask
from foveal.models.family import Rename

_DEFORMABLE = {
    "conv_offset.0.": "offset_network.depthwise.",
    "conv_offset.1.norm.": "offset_network.norm.",
    "conv_offset.3.": "offset_network.pointwise.",
    "rpe_table.0.": "position_bias.fc1.",
    "rpe_table.2.": "position_bias.fc2.",
    "rpe_table.": "position_conv.",
    "rpe_table": "position_bias.table",
    "proj_q.": "query.",
    "proj_k.": "key.",
    "proj_v.": "value.",
    "proj_out.": "proj.",
}
_WINDOW = {"proj_qkv.": "qkv.", "proj_out.": "proj.", "relative_position_bias_table": None}
_NEIGHBORHOOD = {"rpb": "relative_position_bias", "qkv.": None, "proj.": None}
_PARTS = {"L": _WINDOW, "S": _WINDOW, "D": _DEFORMABLE, "N": _NEIGHBORHOOD}
_OUTSIDE_BLOCKS = {
    "patch_proj.0.": "stem.proj.",
    "patch_proj.1.norm.": "stem.norm.",
    "patch_proj.3.": "stem.proj2.",
    "patch_proj.4.norm.": "stem.norm2.",
    "down_projs.{s}.0.": "stages.{s+1}.downsample.proj.",
    "down_projs.{s}.1.norm.": "stages.{s+1}.downsample.norm.",
    "cls_norm.norm.": "norm.",
    "cls_head.": "head.fc.",
}


def renames(kinds: Sequence[str], use_conv_mlp: bool) -> list[Rename]:
    """Official prefixes and ours.

    Args:
        kinds: the letter of every block's attention, one string per stage.
        use_conv_mlp: whether the MLP is made of convolutions.
    """
    linear = "linear{}.0." if use_conv_mlp else "chunk.linear{}."
    official, ours = "stages.{s}.", "stages.{s}.blocks.{b}."
    rules = [
        *(Rename(a, b) for a, b in _OUTSIDE_BLOCKS.items()),
        Rename(official + "mlps.{b}." + linear.format(1), ours + "channel_mixer.fc1."),
        Rename(official + "mlps.{b}." + linear.format(2), ours + "channel_mixer.fc2."),
        Rename(official + "mlps.{b}.dwc.", ours + "channel_mixer.depthwise."),
        Rename(official + "local_perception_units.{b}.", ours + "local_perception."),
    ]
    for block in range(max(map(len, kinds))):
        for norm in (1, 2):
            index = 2 * block + norm - 1
            theirs = f"{official}layer_norms.{index}.norm."
            rules.append(Rename(theirs, f"{official}blocks.{block}.norm{norm}."))
    for stage, letters in enumerate(kinds):
        for block, kind in enumerate(letters):
            theirs, mine = f"stages.{stage}.attns.{block}.", f"stages.{stage}.blocks.{block}.mixer."
            rules += [Rename(theirs + a, mine + (b or a)) for a, b in _PARTS[kind].items()]
    return rules


def infer_options(official: Mapping[str, Tensor]) -> dict:
    """Options that add keys, read off an official state dict."""
    if not any(".attns." in key and ".proj_q." in key for key in official):
        return {}
    suffixes = {key.rsplit(".rpe_table", 1)[1] for key in official if ".rpe_table" in key}
    form = {"": None, ".0.weight": "log_cpb", ".weight": "dwc"}
    found = [form[suffix] for suffix in sorted(suffixes) if suffix in form]
    options: dict = {"use_offsets": any(".conv_offset." in key for key in official)}
    # "table" and "fixed" differ in shape only, so that the config's word for it holds.
    if not found:
        options["position_bias"] = "none"
    elif found[0] is not None:
        options["position_bias"] = found[0]
    return options


def is_computed(key: str) -> bool:
    """Whether an official key is a buffer that follows from the configuration."""
    return key.endswith((".relative_position_index", ".attn_mask"))


def computed_buffers(kinds: Sequence[str], sides: Sequence[int], window: int) -> dict[str, Tensor]:
    """The index and mask buffers of every window attention.

    Args:
        kinds: the letter of every block's attention, one string per stage.
        sides: of each stage's map at the trained size.
        window: positions a side of a window.
    """
    cpu, shift = torch.device("cpu"), (window + 1) // 2
    buffers = {}
    for stage, letters in enumerate(kinds):
        side = -(-sides[stage] // window) * window
        for block, kind in enumerate(letters):
            key = f"stages.{stage}.attns.{block}."
            if kind in "LS":
                buffers[f"{key}relative_position_index"] = relative_position_index(window, cpu)
            if kind == "S":
                mask = shift_mask(side, side, window, shift, torch.float32, cpu)
                buffers[f"{key}attn_mask"] = mask
    # Copies, as the tables are shared.
    return {key: value.clone() for key, value in buffers.items()}
