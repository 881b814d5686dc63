"""DAT and DAT++: mixers against their formulas, readings, options, and official buffers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foveal
from foveal.errors import FovealError, OptionError
from foveal.models.dat import VARIANTS, DATConfig, DeformableAttention
from foveal.models.dat_local import NeighborhoodAttention, WindowAttention

MIXERS: dict[str, Any] = {
    "deformable": lambda: DeformableAttention(8, 4, 2, table_size=5),
    "deformable_dat": lambda: DeformableAttention(
        8, 4, 2, stride=1, offset_kernel=3, offset_range_factor=2, corner_aligned=False
    ),
    "deformable_whole_cells": lambda: DeformableAttention(8, 2, stride=4, offset_kernel=4),
    "deformable_pooled": lambda: DeformableAttention(8, 2, stride=3, use_offsets=False),
    "deformable_dwc": lambda: DeformableAttention(8, 2, position_bias="dwc"),
    "deformable_fixed": lambda: DeformableAttention(8, 2, position_bias="fixed", table_size=(4, 6)),
    "deformable_log_cpb": lambda: DeformableAttention(8, 4, 2, position_bias="log_cpb"),
    "deformable_none": lambda: DeformableAttention(8, 4, 2, position_bias="none"),
    "window": lambda: WindowAttention(8, 2, 4),
    "shifted_window": lambda: WindowAttention(8, 2, 5, shift=True),
    "neighborhood": lambda: NeighborhoodAttention(8, 2, 5),
}
SIZES = [(1, 1), (1, 6), (2, 3), (5, 5), (7, 9), (13, 4)]


def mixer(name: str) -> Any:
    """A mixer whose tables and offsets matter."""
    torch.manual_seed(0)
    module = MIXERS[name]().double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return module


def centred(size: int, over: int) -> Tensor:
    return (torch.arange(size, dtype=torch.float64) + 0.5) / over * 2 - 1


def deformable_by_formula(m: DeformableAttention, x: Tensor) -> Tensor:
    """The six steps, image by image and head by head, on full grids of displacements."""
    h, w = x.shape[2:]
    return torch.cat([_image_by_formula(m, image[None], h, w) for image in x])


def _image_by_formula(m: DeformableAttention, x: Tensor, h: int, w: int) -> Tensor:
    groups, heads = m.num_groups, m.num_heads
    q = m.query(x)
    parts = zip(q.chunk(groups, 1), x.chunk(groups, 1), strict=True)
    positions, samples = zip(*(_deform(m, query, part) for query, part in parts), strict=True)
    key_sides = (samples[0].shape[2], samples[0].shape[3])
    sampled = torch.cat(samples, 1)
    k, v = m.key(sampled).flatten(2)[0], m.value(sampled).flatten(2)[0]
    d = q.shape[1] // heads
    heads_out = []
    for head in range(heads):
        rows = slice(head * d, (head + 1) * d)
        points = positions[head * groups // heads].reshape(-1, 2)
        logits = q[0, rows].flatten(1).T @ k[rows] / math.sqrt(d)
        logits = logits + _bias_by_formula(m, head, points, (h, w), key_sides)
        heads_out.append((logits.softmax(-1) @ v[rows].T).T.reshape(d, h, w))
    y = torch.cat(heads_out)[None]
    return m.proj(y if m.position_conv is None else y + m.position_conv(q))


def _deform(m: DeformableAttention, query: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (hk wk 2) and the group's samples (1 c hk wk)."""
    net, r = m.offset_network, m.stride
    if net is None:
        samples = F.avg_pool2d(x, r, r, ceil_mode=True, count_include_pad=False)
        hk, wk = samples.shape[2:]
        raw = None
    else:
        missing = [max(0, net.least - n) for n in x.shape[2:]]
        u = net.depthwise(F.pad(query, (0, missing[1], 0, missing[0])))
        u = net.norm(u.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        raw = net.pointwise(F.gelu(u))[0].permute(1, 2, 0)
        hk, wk = raw.shape[:2]
        samples = torch.empty(0)
    over = [max(n - 1, 1) if m.corner_aligned else n for n in (hk, wk)]
    grid = torch.meshgrid(centred(hk, over[0]), centred(wk, over[1]), indexing="ij")
    references = torch.stack(grid, -1)
    if raw is None:
        return references, samples
    if m.offset_range_factor >= 0:
        positions = references + raw.tanh() * m.offset_range_factor / torch.tensor(over)
    elif m.corner_aligned:
        positions = (references + raw).clamp(-1, 1)
    else:
        positions = (references + raw).tanh()
    samples = F.grid_sample(x, positions.flip(-1)[None], align_corners=True, padding_mode="zeros")
    return positions, samples


def _bias_by_formula(
    m: DeformableAttention,
    head: int,
    positions: Tensor,
    sides: tuple[int, int],
    key_sides: tuple[int, int],
) -> Tensor:
    """(h·w, n)."""
    bias, (h, w) = m.position_bias, sides
    axes = [
        (torch.linspace(-1, 1, n).double() if n > 1 else torch.zeros(1).double())
        if m.corner_aligned
        else centred(n, n)
        for n in sides
    ]
    queries = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 1, 2)
    u = queries - positions
    if bias.form == "table":
        where = u.flip(-1)[None] / 2
        return F.grid_sample(bias.table[None, head, None], where, align_corners=True)[0, 0]
    if bias.form == "log_cpb":
        spaced = (4 * u).sign() * (4 * u).abs().add(1).log2() / math.log2(8)
        return bias.fc2(bias.fc1(spaced).relu())[..., head % (m.num_heads // m.num_groups)]
    if bias.form == "fixed":
        table = bias.table[head].view(1, -1, *bias.keys)
        table = F.interpolate(table, key_sides, mode="bilinear").flatten(2)[0]
        table = table.T.reshape(1, -1, *bias.queries)
        return F.interpolate(table, (h, w), mode="bilinear")[0].flatten(1).T
    return torch.zeros(())


DEFORMABLE = [name for name in MIXERS if name.startswith("deformable")]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DEFORMABLE)
def test_deformable_attention_is_its_formula(name: str, size: tuple[int, int]) -> None:
    m = mixer(name)
    assert isinstance(m, DeformableAttention)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    torch.testing.assert_close(m(x), deformable_by_formula(m, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("corner_aligned", [True, False])
@pytest.mark.parametrize("factor", [-1, 0, 0.5, 3])
def test_range_factors(factor: float, corner_aligned: bool) -> None:
    torch.manual_seed(0)
    m = DeformableAttention(
        8, 4, 2, offset_range_factor=factor, corner_aligned=corner_aligned
    ).double()
    x = torch.randn(2, 8, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(m(x), deformable_by_formula(m, x), rtol=1e-6, atol=1e-6)
    readings = m.readings(x)
    if factor >= 0:
        over = torch.tensor([5 - corner_aligned, 3 - corner_aligned])
        assert (readings["offsets"].abs() <= factor / over + 1e-9).all()
    else:
        assert (readings["positions"].abs() <= 1).all()


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_window_attention_is_its_formula(size: tuple[int, int], shift: bool) -> None:
    torch.manual_seed(0)
    w = 4
    m = WindowAttention(8, 2, w, shift=shift).double()
    nn.init.normal_(m.relative_position_bias_table)
    x = torch.randn(1, 8, *size, dtype=torch.float64)
    h2, w2 = (-(-n // w) * w for n in size)
    padded = F.pad(x, (0, w2 - size[1], 0, h2 - size[0]))[0].permute(1, 2, 0)
    s = 2 if shift else 0
    out = torch.zeros_like(padded)
    for wy in range(h2 // w):
        for wx in range(w2 // w):
            # Rolled coordinate r holds the padded map's position (r + s) mod side.
            cells = [(wy * w + i, wx * w + j) for i in range(w) for j in range(w)]
            where = [((a + s) % h2, (b + s) % w2) for a, b in cells]
            region = [
                (((a >= h2 - w) + (a >= h2 - s)), ((b >= w2 - w) + (b >= w2 - s))) for a, b in cells
            ]
            tokens = torch.stack([padded[p] for p in where])
            q, k, v = m.qkv(tokens).view(w * w, 3, 2, 4).permute(1, 2, 0, 3)
            logits = q @ k.mT / 2
            for i, (a, b) in enumerate(cells):
                for j, (c, d) in enumerate(cells):
                    row = (a - c + w - 1) * (2 * w - 1) + b - d + w - 1
                    logits[:, i, j] += m.relative_position_bias_table[row]
                    if shift and region[i] != region[j]:
                        logits[:, i, j] -= 100
            values = (logits.softmax(-1) @ v).permute(1, 0, 2).reshape(w * w, 8)
            for p, value in zip(where, m.proj(values), strict=True):
                out[p] = value
    expected = out[: size[0], : size[1]].permute(2, 0, 1)[None]
    torch.testing.assert_close(m(x), expected)


@pytest.mark.parametrize("size", SIZES)
def test_neighborhood_attention_is_its_formula(size: tuple[int, int]) -> None:
    m = mixer("neighborhood")
    assert isinstance(m, NeighborhoodAttention)
    x = torch.randn(1, 8, *size, dtype=torch.float64)
    h, w = (max(5, n) for n in size)
    padded = F.pad(x, (0, w - size[1], 0, h - size[0]))[0].permute(1, 2, 0)
    q, k, v = m.qkv(padded).view(h, w, 3, 2, 4).unbind(2)
    out = torch.zeros(1, *size, 8, dtype=torch.float64)
    for y in range(size[0]):
        for x_ in range(size[1]):
            top, left = min(max(y - 2, 0), h - 5), min(max(x_ - 2, 0), w - 5)
            near = [(a, b) for a in range(top, top + 5) for b in range(left, left + 5)]
            bias = torch.stack(
                [m.relative_position_bias[:, a - y + 4, b - x_ + 4] for a, b in near]
            )
            logits = torch.stack([(q[y, x_] * k[p]).sum(-1) for p in near]) / 2 + bias
            weights = logits.softmax(0)
            out[0, y, x_] = sum(
                (g[:, None] * v[p] for g, p in zip(weights, near, strict=True)), torch.zeros(2, 4)
            ).flatten()
    torch.testing.assert_close(m(x), m.proj(out).permute(0, 3, 1, 2))


def recombine(m: Any, x: Tensor, readings: dict[str, Tensor]) -> Tensor:
    """Forward's output from what it computed on the way."""
    b, c, h, w = x.shape
    attention = readings["attention"]
    if isinstance(m, DeformableAttention):
        v = m.value(readings["samples"]).flatten(2).unflatten(1, (m.num_heads, -1)).mT
        y = (attention @ v).mT.reshape(b, c, h, w)
        return m.proj(y if m.position_conv is None else y + m.position_conv(m.query(x)))
    v = readings["values"]
    if isinstance(m, NeighborhoodAttention):
        s, (rows, columns) = m.kernel_size, v.shape[1:3]
        y = (torch.arange(h) - s // 2).clamp(0, rows - s)[:, None] + torch.arange(s)
        x_ = (torch.arange(w) - s // 2).clamp(0, columns - s)[:, None] + torch.arange(s)
        near = v[:, y[:, None, :, None], x_[None, :, None, :]].flatten(3, 4)
        out = torch.einsum("bhyxn,byxnhd->byxhd", attention, near)
        return m.proj(out.flatten(3)).permute(0, 3, 1, 2)
    assert isinstance(m, WindowAttention)
    s, (rows, columns) = m.window_size, v.shape[1:3]
    v = v.roll((-m.shift, -m.shift), (1, 2))
    tiles = v.reshape(b, rows // s, s, columns // s, s, m.num_heads, -1)
    tiles = tiles.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 2)
    out = (attention @ tiles).view(b, rows // s, columns // s, m.num_heads, s, s, -1)
    out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, rows, columns, c)
    out = out.roll((m.shift, m.shift), (1, 2))[:, :h, :w]
    return m.proj(out).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", list(MIXERS))
def test_readings_recombine(name: str, size: tuple[int, int]) -> None:
    m = mixer(name)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    before = {k: v.clone() for k, v in m.state_dict().items()}
    readings = m.readings(x)
    torch.testing.assert_close(recombine(m, x, readings), m(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(m.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", list(MIXERS))
def test_the_exported_form_computes_the_same(
    name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Export takes other ways through the tiles; here they run on numbers."""
    m = mixer(name)
    x = torch.randn(2, 8, *size, dtype=torch.float64)
    expected = m(x)
    for question in ("is_compiling", "is_exporting"):
        monkeypatch.setattr(torch.compiler, question, lambda: True)
    torch.testing.assert_close(m(x), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", list(MIXERS))
def test_every_parameter_gets_a_finite_gradient(name: str, size: tuple[int, int]) -> None:
    m = mixer(name)
    m(torch.randn(2, 8, *size, dtype=torch.float64)).square().sum().backward()
    assert [
        k for k, p in m.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ] == []


def test_shapes_of_deformable_readings() -> None:
    x = torch.randn(2, 8, 9, 6)
    readings = DeformableAttention(8, 4, 2).readings(x)
    assert readings["references"].shape == (5, 3, 2)
    assert readings["offsets"].shape == readings["positions"].shape == (2, 2, 5, 3, 2)
    assert readings["attention"].shape == (2, 4, 54, 15)


@pytest.mark.parametrize("dim", [1, 7, 48, 64, 100])
@pytest.mark.parametrize("kind", [DeformableAttention, NeighborhoodAttention, WindowAttention])
def test_mixers_take_any_channels_by_default(kind: type[nn.Module], dim: int) -> None:
    assert kind(dim)(torch.randn(1, dim, 6, 5)).shape == (1, dim, 6, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", ["dat_tiny", "dat_pp_tiny"])
def test_whole_model_in_another_precision(name: str, device: str, dtype: torch.dtype) -> None:
    model = foveal.create_model(name, depths=(2, 2, 2, 2), device=device, dtype=dtype)
    logits = model(torch.randn(1, 3, 64, 96, device=device, dtype=dtype))
    assert (logits.dtype, logits.device.type) == (dtype, device)


OPTIONS = [
    {"position_bias": "fixed"},
    {"position_bias": "log_cpb"},
    {"position_bias": "dwc"},
    {"position_bias": "none", "offset_range_factor": -1},
    {"use_offsets": False},
    {"offset_range_factor": (1, 1, -1, 3.5)},
    {"corner_aligned": True, "use_local_perception": True, "stage_spec": ("N", "S", "DNL", "LD")},
]


@pytest.mark.parametrize("options", OPTIONS, ids=[next(iter(o)) for o in OPTIONS])
@pytest.mark.parametrize("size", [(32, 32), (65, 96)])
def test_options_run_and_train_at_any_size(options: dict, size: tuple[int, int]) -> None:
    model = foveal.create_model("dat_tiny", depths=(2, 2, 2, 2), num_classes=5, **options)
    model(torch.randn(2, 3, *size)).square().sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("options", OPTIONS[:5], ids=lambda o: next(iter(o.values())))
def test_options_convert_both_ways(options: dict) -> None:
    """The form of the bias is read off the keys, as the variant's name does not tell it."""
    model = foveal.create_model("dat_tiny", device="meta", **options)
    own = model.state_dict()
    official = foveal.convert_state_dict("dat_tiny", own, to_official=True)
    has_table = any(key.startswith("stages.3.attns.1.rpe_table") for key in official)
    assert has_table == (options.get("position_bias") != "none")
    assert set(foveal.convert_state_dict("dat_tiny", official)) == set(own)


@pytest.mark.parametrize("name", list(VARIANTS))
def test_buffers_of_the_official_layout(name: str) -> None:
    own = foveal.create_model(name, device="meta").state_dict()
    official = foveal.convert_state_dict(name, own, to_official=True)
    buffers = {k: v for k, v in official.items() if v.device.type == "cpu"}
    if not name.startswith(("dat_tiny", "dat_small", "dat_base")):
        assert buffers == {}
        return
    w = VARIANTS[name].window_size
    mask = buffers["stages.0.attns.1.attn_mask"]
    assert mask.shape == (64, w * w, w * w)
    assert set(mask.unique().tolist()) == {-100.0, 0.0}
    assert not mask[0].any()
    index = buffers["stages.2.attns.0.relative_position_index"]
    assert index.dtype == torch.int64
    # Query in the first cell, key in the last: the smallest displacement; and the other way round.
    assert (index[0, -1], index[-1, 0], index[0, 1]) == (0, (2 * w - 1) ** 2 - 1, index[0, 0] - 1)


def test_weight_decay_leaves_the_tables_alone() -> None:
    model: Any = foveal.create_model("dat_pp_tiny", device="meta")
    patterns = model.no_weight_decay()
    assert patterns == {"*position_bias.table", "*relative_position_bias*"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"stage_spec": ("LS", "LX", "LD", "LD")}, "letters L, S, D and N"),
        ({"dims": (96, 192)}, "dims has one entry per stage"),
        ({"position_bias": "bilinear"}, "position_bias is one of table"),
        ({"num_heads": (3, 6, 12, 25)}, "do not split"),
        ({"num_groups": (1, 1, 5, 6)}, "num_groups divides"),
        ({"offset_range_factor": (1, 2)}, "offset_range_factor has one entry"),
        ({"offset_strides": (1, 1, 9, 1)}, "offset_kernel no smaller"),
        ({"stage_spec": ("N", "N", "N", "N"), "neighborhood_size": 4}, "odd"),
        ({"window_size": 0}, "window_size is at least 1"),
        ({"img_size": 16}, "img_size"),
        ({"output_stride": 16}, "output_stride"),
        ({"windows": 7}, "window_size"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_an_option_does_not_allow(options: dict, sentence: str) -> None:
    with pytest.raises(OptionError, match=sentence):
        foveal.create_model("dat_tiny", device="meta", **options)
    assert issubclass(OptionError, FovealError)


def test_a_stage_repeats_its_letters() -> None:
    config = DATConfig(depths=(1, 2, 5, 3), stage_spec=("LS", "LS", "LSD", "D"))
    assert config.kinds() == ["L", "LS", "LSDLS", "DDD"]
