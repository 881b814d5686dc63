"""The backward pass of aggregated attention in Triton, without atomic additions.

query_kernel has the queries and their pooled keys, and the bias over all images; window_kernel the
queries and their windows, and sums for what is learned. What window keys and values need of each
query it leaves behind, for key_kernel to gather; pooled keys and values go through all queries
themselves, in pooled_kernel. Every weight is computed anew from its softmax's highest logit and sum
(one logarithm of both is not as exact). With p the weights and dp their gradients,

    ds(i, j) = p(i, j) (dp(i, j) − δ(i)),   δ(i) = Σ_j p(i, j) dp(i, j)

and δ is not dO·O, of which the positional weights have a part.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from foveal.kernels import launch
from foveal.kernels.aggregated_attention.triton import (
    Inputs,
    inverse_norm,
    load_norms,
    load_tile,
    log_seen,
    normalize_backward,
    pooled_logits,
    window_cell,
    window_weight,
)
from foveal.kernels.tuning import blocks

# So many programs of query_kernel keep a GPU busy; more would divide images further.
ENOUGH_PROGRAMS = 1024


@triton.jit
def pooled_weights(
    q, inverse_q, scaling, e, do, top, inverse_sum, pooled_key, pooled_value, bias, rows, columns,
    image, head, heads, first, pixel, here, start, width, pixels, cells, cells_wide, table_width,
    pk_step, pv_step, TABLE: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, ALIGN: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    """Of the pooled cells from `start`: keys, their inverse norms, (q̂ + QE)·k̂, p and dp."""
    keys, inverse_k, cosine, logits = pooled_logits(
        q, inverse_q, scaling, e, pooled_key, bias, rows, columns, image, head, heads, first,
        pixel, here, start, width, pixels, cells, cells_wide, table_width, pk_step,
        TABLE, D, DP, ALIGN, BN,
    )  # fmt: skip
    cell = start + tl.arange(0, BN)
    values = load_tile(pooled_value, image, cells, head, cell, cell < cells, pv_step, D, DP, ALIGN)
    dp = tl.dot(do, tl.trans(values), input_precision="ieee")
    p = tl.exp(logits - top[:, None]) * inverse_sum[:, None]
    return keys, inverse_k, cosine, p, dp


@triton.jit
def query_kernel(  # noqa: PLR0915
    query, key, value, pooled_key, pooled_value, embedding, scale, local_bias, bias, rows, columns,
    gradient, norms, d_bias, delta_out, pull_out, batch, parts_of_batch,
    heads, height, width, cells, cells_wide, table_width, q_step, k_step, v_step, pk_step, pv_step,
    TABLE: tl.constexpr, ALIGN: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    ONE: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """BM queries of one head, one image after the other; ONE block has all pooled cells.

    Leaves δ, the bias's gradient and Σ ds k̂ over the pooled keys.
    """
    head = tl.program_id(0)
    part = tl.program_id(2)
    pixels = height * width
    first = tl.program_id(1) * BM
    pixel = first + tl.arange(0, BM)
    here = pixel < pixels
    channel = tl.arange(0, DP)
    e = tl.load(embedding + head * D + channel, mask=channel < D, other=0.0).to(tl.float32)
    scaling = tl.load(scale + head).to(tl.float32) * log_seen(pixel, height, width, cells, K)
    bias_sum = tl.zeros((BM, BN), tl.float32)
    d_bias += (part.to(tl.int64) * heads + head) * pixels * cells
    for image_number in range(part, batch, parts_of_batch):
        image = tl.full((), 0, tl.int64) + image_number
        q = load_tile(query, image, pixels, head, pixel, here, q_step, D, DP, ALIGN)
        unit = q.to(tl.float32)
        inverse_q = inverse_norm(unit)
        unit = unit * inverse_q[:, None]
        # Steps of the output's gradient are its own: it is contiguous.
        do = load_tile(gradient, image, pixels, head, pixel, here, heads * D, D, DP, 1)
        wide_do = do.to(tl.float32)
        top, inverse_sum = load_norms(norms, image, head, heads, pixel, here, pixels)
        delta = tl.zeros((BM,), tl.float32)
        # Unrolled, the addresses of all cells would be kept from image to image.
        for cell in range(K * K):
            near, inside = window_cell(
                pixel, here, height, width, cell // K - K // 2, cell % K - K // 2
            )
            k = load_tile(key, image, pixels, head, near, inside, k_step, D, DP, ALIGN)
            v = load_tile(value, image, pixels, head, near, inside, v_step, D, DP, ALIGN)
            _ours, near_p = window_weight(
                unit, e, k, scaling, local_bias, head, cell, inside, top, K
            )
            delta += near_p * inverse_sum * tl.sum(wide_do * v.to(tl.float32), 1)

        if ONE:
            keys, inverse_k, _cosine, p, dp = pooled_weights(
                q, inverse_q, scaling, e, do, top, inverse_sum, pooled_key, pooled_value, bias,
                rows, columns, image, head, heads, first, pixel, here, 0, width, pixels, cells,
                cells_wide, table_width, pk_step, pv_step, TABLE, D, DP, ALIGN, BN,
            )  # fmt: skip
            delta += tl.sum(p * dp, 1)
            ds = p * (dp - delta[:, None])
            bias_sum += ds
            pull = tl.dot((ds * inverse_k[None, :]).to(keys.dtype), keys, input_precision="ieee")
        else:
            for start in range(0, cells, BN):
                keys, inverse_k, _cosine, p, dp = pooled_weights(
                    q, inverse_q, scaling, e, do, top, inverse_sum, pooled_key, pooled_value, bias,
                    rows, columns, image, head, heads, first, pixel, here, start, width, pixels,
                    cells, cells_wide, table_width, pk_step, pv_step, TABLE, D, DP, ALIGN, BN,
                )  # fmt: skip
                delta += tl.sum(p * dp, 1)
            pull = tl.zeros((BM, DP), tl.float32)
            for start in range(0, cells, BN):
                keys, inverse_k, _cosine, p, dp = pooled_weights(
                    q, inverse_q, scaling, e, do, top, inverse_sum, pooled_key, pooled_value, bias,
                    rows, columns, image, head, heads, first, pixel, here, start, width, pixels,
                    cells, cells_wide, table_width, pk_step, pv_step, TABLE, D, DP, ALIGN, BN,
                )  # fmt: skip
                ds = p * (dp - delta[:, None])
                pull += tl.dot(
                    (ds * inverse_k[None, :]).to(keys.dtype), keys, input_precision="ieee"
                )
                # Nobody else has this part of the bias: it is summed over images in memory.
                far = start + tl.arange(0, BN)[None, :]
                at = (pixel - first)[:, None] * cells + far
                ours = here[:, None] & (far < cells)
                again = ours & (tl.zeros((BM, 1), tl.int32) + image_number != part)
                tile = d_bias + first.to(tl.int64) * cells
                sum_before = tl.load(tile + at, mask=again, other=0.0)
                tl.store(tile + at, sum_before + ds, mask=ours)
            # Sums are read by other threads than wrote them.
            tl.debug_barrier()

        tl.store(delta_out + (image * heads + head) * pixels + pixel, delta, mask=here)
        at = (image * pixels + pixel[:, None]) * heads * D + head * D + channel[None, :]
        stored = here[:, None] & (channel[None, :] < D)
        tl.store(pull_out + at, pull, mask=stored)

    if ONE:
        far = tl.arange(0, BN)[None, :]
        at = (pixel - first)[:, None] * cells + far
        tile = d_bias + first.to(tl.int64) * cells
        tl.store(tile + at, bias_sum, mask=here[:, None] & (far < cells))


@triton.jit
def window_kernel(  # noqa: PLR0915
    query, key, value, embedding, scale, local_bias, tokens, token_bias, gradient, norms, delta_in,
    pull_in, d_query, learned, ds_out, share_out,
    heads, height, width, cells, q_step, k_step, v_step,
    ALIGN: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, KP: tl.constexpr,
    BM: tl.constexpr,
):  # fmt: skip
    """BM queries of one head and image and their windows; `pull_in` is Σ ds k̂ of the pooled keys.

    `learned` (programs, heads, ·) takes sums over the program's queries, in this order: query
    embedding and scale (both from the window's keys), local bias, token bias, tokens. For every
    query and cell of its window, (b, heads, K², h·w), `ds_out` takes ds times the query's scale,
    `share_out` the value's weight.
    """
    head = tl.program_id(0)
    image = tl.program_id(2).to(tl.int64)
    pixels = height * width
    pixel = tl.program_id(1) * BM + tl.arange(0, BM)
    here = pixel < pixels
    channel = tl.arange(0, DP)
    column = tl.arange(0, KP)[None, :]
    e = tl.load(embedding + head * D + channel, mask=channel < D, other=0.0).to(tl.float32)
    seen = log_seen(pixel, height, width, cells, K)
    scaling = tl.load(scale + head).to(tl.float32) * seen
    q = load_tile(query, image, pixels, head, pixel, here, q_step, D, DP, ALIGN).to(tl.float32)
    inverse_q = inverse_norm(q)
    unit = q * inverse_q[:, None]
    do = load_tile(gradient, image, pixels, head, pixel, here, heads * D, D, DP, 1).to(tl.float32)
    top, inverse_sum = load_norms(norms, image, head, heads, pixel, here, pixels)
    delta = tl.load(delta_in + (image * heads + head) * pixels + pixel, mask=here, other=0.0)
    pull = tl.zeros((BM, DP), tl.float32)
    from_tokens = tl.zeros((BM, DP), tl.float32)
    slope = tl.zeros((BM,), tl.float32)
    all_ds = tl.zeros((BM, KP), tl.float32)
    all_dp = tl.zeros((BM, KP), tl.float32)
    row = (image * heads + head) * K * K * pixels + pixel
    for cell in range(K * K):
        near, inside = window_cell(
            pixel, here, height, width, cell // K - K // 2, cell % K - K // 2
        )
        k = load_tile(key, image, pixels, head, near, inside, k_step, D, DP, ALIGN)
        v = load_tile(value, image, pixels, head, near, inside, v_step, D, DP, ALIGN)
        cosine, p = window_weight(unit, e, k, scaling, local_bias, head, cell, inside, top, K)
        p = p * inverse_sum
        dp = tl.sum(do * v.to(tl.float32), 1)
        ds = p * (dp - delta)
        t = tl.load(tokens + (head * D + channel) * K * K + cell, mask=channel < D, other=0.0)
        t = t.to(tl.float32)
        share = p + tl.sum(unit * t[None, :], 1)
        share += tl.load(token_bias + head * K * K + cell).to(tl.float32)
        wide_k = k.to(tl.float32)
        pull += (ds * inverse_norm(wide_k))[:, None] * wide_k
        from_tokens += dp[:, None] * t[None, :]
        slope += ds * cosine
        all_ds = tl.where(column == cell, ds[:, None], all_ds)
        all_dp = tl.where(column == cell, dp[:, None], all_dp)
        tl.store(ds_out + row + cell * pixels, ds * scaling, mask=here)
        tl.store(share_out + row + cell * pixels, share, mask=here)

    near_pull = pull * scaling[:, None]
    at = (image * pixels + pixel[:, None]) * heads * D + head * D + channel[None, :]
    stored = here[:, None] & (channel[None, :] < D)
    far = tl.load(pull_in + at, mask=stored, other=0.0).to(tl.float32)
    d_unit = near_pull + far * scaling[:, None] + from_tokens
    dq = normalize_backward(d_unit, q, inverse_q)
    tl.store(d_query + at, dq, mask=stored)
    program = image * tl.num_programs(1) + tl.program_id(1)
    learned += (program * heads + head) * (D + 1 + 2 * K * K + D * K * K)
    window = tl.arange(0, KP)
    tl.store(learned + channel, tl.sum(near_pull, 0), mask=channel < D)
    tl.store(learned + D, tl.sum(slope * seen, 0))
    tl.store(learned + D + 1 + window, tl.sum(all_ds, 0), mask=window < K * K)
    tl.store(learned + D + 1 + K * K + window, tl.sum(all_dp, 0), mask=window < K * K)
    of_tokens = tl.dot(tl.trans(unit), all_dp, input_precision="ieee")
    at = D + 1 + 2 * K * K + channel[:, None] * K * K + column
    tl.store(learned + at, of_tokens, mask=(channel[:, None] < D) & (column < K * K))


@triton.jit
def key_kernel(
    query, key, embedding, gradient, ds_in, share_in, d_key, d_value,
    heads, height, width, q_step, k_step,
    ALIGN: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """BM keys and values of one head: in cell j of whose window they are, gathers from there."""
    head = tl.program_id(0)
    image = tl.program_id(2).to(tl.int64)
    pixels = height * width
    pixel = tl.program_id(1) * BM + tl.arange(0, BM)
    here = pixel < pixels
    channel = tl.arange(0, DP)
    e = tl.load(embedding + head * D + channel, mask=channel < D, other=0.0).to(tl.float32)
    row = (image * heads + head) * K * K * pixels
    d_unit = tl.zeros((BM, DP), tl.float32)
    dv = tl.zeros((BM, DP), tl.float32)
    embedded = tl.zeros((BM,), tl.float32)
    for cell in range(K * K):
        near, inside = window_cell(
            pixel, here, height, width, K // 2 - cell // K, K // 2 - cell % K
        )
        ds = tl.load(ds_in + row + cell * pixels + near, mask=inside, other=0.0).to(tl.float32)
        share = tl.load(share_in + row + cell * pixels + near, mask=inside, other=0.0)
        q = load_tile(query, image, pixels, head, near, inside, q_step, D, DP, ALIGN)
        q = q.to(tl.float32)
        do = load_tile(gradient, image, pixels, head, near, inside, heads * D, D, DP, 1)
        d_unit += (ds * inverse_norm(q))[:, None] * q
        embedded += ds
        dv += share.to(tl.float32)[:, None] * do.to(tl.float32)
    d_unit += embedded[:, None] * e[None, :]
    k = load_tile(key, image, pixels, head, pixel, here, k_step, D, DP, ALIGN).to(tl.float32)
    at = (image * pixels + pixel[:, None]) * heads * D + head * D + channel[None, :]
    stored = here[:, None] & (channel[None, :] < D)
    tl.store(d_key + at, normalize_backward(d_unit, k, inverse_norm(k)), mask=stored)
    tl.store(d_value + at, dv, mask=stored)


@triton.jit
def pooled_kernel(
    query, pooled_key, pooled_value, embedding, scale, bias, rows, columns, gradient, norms,
    delta_in, d_pooled_key, d_pooled_value, learned,
    heads, height, width, cells, cells_wide, table_width, q_step, pk_step, pv_step,
    TABLE: tl.constexpr, ALIGN: tl.constexpr, K: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """BN pooled keys and values of one head and image go through all its queries."""
    head = tl.program_id(0)
    image = tl.program_id(2).to(tl.int64)
    pixels = height * width
    start = tl.program_id(1) * BN
    channel = tl.arange(0, DP)
    e = tl.load(embedding + head * D + channel, mask=channel < D, other=0.0).to(tl.float32)
    learned_scale = tl.load(scale + head).to(tl.float32)
    row = (image * heads + head) * pixels
    d_unit = tl.zeros((BN, DP), tl.float32)
    dv = tl.zeros((BN, DP), tl.float32)
    total = tl.zeros((BN,), tl.float32)
    slope = tl.zeros((BN,), tl.float32)
    for first in range(0, pixels, BM):
        pixel = first + tl.arange(0, BM)
        here = pixel < pixels
        q = load_tile(query, image, pixels, head, pixel, here, q_step, D, DP, ALIGN)
        inverse_q = inverse_norm(q.to(tl.float32))
        seen = log_seen(pixel, height, width, cells, K)
        scaling = learned_scale * seen
        do = load_tile(gradient, image, pixels, head, pixel, here, heads * D, D, DP, 1)
        top, inverse_sum = load_norms(norms, image, head, heads, pixel, here, pixels)
        delta = tl.load(delta_in + row + pixel, mask=here, other=0.0)
        _keys, _inverse_k, cosine, p, dp = pooled_weights(
            q, inverse_q, scaling, e, do, top, inverse_sum, pooled_key, pooled_value, bias, rows,
            columns, image, head, heads, first, pixel, here, start, width, pixels, cells,
            cells_wide, table_width, pk_step, pv_step, TABLE, D, DP, ALIGN, BN,
        )  # fmt: skip
        ds = p * (dp - delta[:, None]) * seen[:, None]
        slope += tl.sum(ds * cosine, 0)
        ds = ds * learned_scale
        dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision="ieee")
        pulled = (ds * inverse_q[:, None]).to(q.dtype)
        d_unit = tl.dot(tl.trans(pulled), q, d_unit, input_precision="ieee")
        total += tl.sum(ds, 0)
    d_unit += total[:, None] * e[None, :]
    cell = start + tl.arange(0, BN)
    exists = cell < cells
    k = load_tile(pooled_key, image, cells, head, cell, exists, pk_step, D, DP, ALIGN)
    wide_k = k.to(tl.float32)
    inverse = inverse_norm(wide_k)
    at = (image * cells + cell[:, None]) * heads * D + head * D + channel[None, :]
    stored = exists[:, None] & (channel[None, :] < D)
    tl.store(d_pooled_key + at, normalize_backward(d_unit, wide_k, inverse), mask=stored)
    tl.store(d_pooled_value + at, dv, mask=stored)
    # What query embedding and scale have from these keys: no ds is rounded to low precision here.
    from_keys = tl.sum((total * inverse)[:, None] * wide_k, 0)
    at = ((image * tl.num_programs(1) + tl.program_id(1)) * heads + head) * (D + 1)
    tl.store(learned + at + channel, from_keys, mask=channel < D)
    tl.store(learned + at + D, tl.sum(slope, 0))


@triton.jit
def table_kernel(
    d_bias, row_found, column_found, d_table,
    heads, height, width, cells_high, cells_wide, table_width,
    BC: tl.constexpr,
):  # fmt: skip
    """One row of the table: each entry gathers from every pooled cell the query that reads it."""
    table_row = tl.program_id(0)
    head = tl.program_id(2)
    entry = tl.program_id(1) * BC + tl.arange(0, BC)
    total = tl.zeros((BC,), tl.float32)
    for a in range(cells_high):
        y = tl.load(row_found + table_row * cells_high + a) + tl.zeros((BC,), tl.int64)
        for b in range(cells_wide):
            x = tl.load(column_found + entry * cells_wide + b, mask=entry < table_width, other=-1)
            query = (head * height + y) * width + x
            at = (query * cells_high + a) * cells_wide + b
            total += tl.load(d_bias + at, mask=(y >= 0) & (x >= 0), other=0.0)
    at = (table_row * table_width + entry) * heads + head
    tl.store(d_table + at, total, mask=entry < table_width)


def backward(gradient: Tensor, norms: Tensor, tensors: Sequence[Tensor | None]) -> list[Tensor]:
    """The gradients of the operator's eleven tensors of floating point."""
    given = Inputs.of(*tensors)
    gradient = gradient.contiguous()
    d_bias, delta, pull = _of_bias(gradient, norms, given)
    d_query, learned, ds, share = _of_queries(gradient, norms, delta, pull, given)
    d_key, d_value = _of_keys(gradient, ds, share, given)
    d_pooled_key, d_pooled_value, far_learned = _of_pooled(gradient, norms, delta, given)
    _, channels, cells = given.tokens.shape
    widths = (channels, 1, cells, cells, channels * cells)
    # What an operator returns may not share memory.
    near_embedding, near_scale, d_local_bias, d_token_bias, d_tokens = (
        d.clone(memory_format=torch.contiguous_format) for d in learned.split(widths, 1)
    )
    d_embedding = near_embedding + far_learned[:, :channels]
    terms = (d_embedding, near_scale[:, 0] + far_learned[:, channels], d_local_bias)
    maps = (d_query, d_key, d_value, d_pooled_key, d_pooled_value)
    found = (*maps, *terms, d_tokens, d_token_bias)
    shaped = [d.reshape(x.shape).to(x.dtype) for d, x in zip(found, given, strict=False)]
    return [*shaped, d_bias.to(given.bias.dtype)]


def _of_bias(gradient: Tensor, norms: Tensor, given: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """The bias's gradient, δ, and Σ ds k̂ of the pooled keys."""
    batch, height, width, heads, _ = given.query.shape
    pooled = tuple(given.pooled_key.shape[1:3])
    cells = pooled[0] * pooled[1]
    tiles = given.tiles("queries")
    query_tiles = launch.cdiv(height * width, tiles.sizes["BM"])
    parts = min(batch, launch.cdiv(ENOUGH_PROGRAMS, heads * query_tiles))
    exact = {"dtype": torch.float32, "device": gradient.device}
    d_bias = torch.empty((parts, heads, height, width, *pooled), **exact)
    delta = torch.empty((batch, heads, height * width), **exact)
    pull = torch.empty(given.query.shape, dtype=_on_the_way(gradient), device=gradient.device)
    launch.run(
        query_kernel,
        (heads, query_tiles, parts),
        *given[:8],
        *given[10:],
        gradient,
        norms,
        d_bias,
        delta,
        pull,
        batch,
        parts,
        *given.numbers(),
        blocks=tiles,
        **given.constants(),
        ONE=int(cells <= tiles.sizes["BN"]),
    )
    whole = d_bias.sum(0)
    whole = whole if given.rows is None else _of_table(whole, given)
    return whole, delta, pull


def _of_queries(
    gradient: Tensor, norms: Tensor, delta: Tensor, pull: Tensor, given: Inputs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of queries and learned terms; what the window's keys and values need."""
    batch, height, width, heads, channels = given.query.shape
    pixels, window = height * width, given.local_bias.shape[-1]
    tiles = given.tiles("window")
    query_tiles = launch.cdiv(pixels, tiles.sizes["BM"])
    device = gradient.device
    d_query = torch.empty(given.query.shape, dtype=given.query.dtype, device=device)
    length = channels + 1 + 2 * window + channels * window
    learned = torch.empty((batch * query_tiles, heads, length), dtype=torch.float32, device=device)
    ds, share = (
        torch.empty((batch, heads, window, pixels), dtype=_on_the_way(gradient), device=device)
        for _ in range(2)
    )
    numbers, constants = given.numbers(), given.constants()
    constants.pop("TABLE")
    launch.run(
        window_kernel,
        (heads, query_tiles, batch),
        *given[:3],
        *given[5:10],
        gradient,
        norms,
        delta,
        pull,
        d_query,
        learned,
        ds,
        share,
        *numbers[:4],
        *numbers[6:9],
        blocks=tiles,
        **constants,
        KP=max(launch.power_of_two(window), 16),
    )
    return d_query, learned.sum(0), ds, share


def _on_the_way(gradient: Tensor) -> torch.dtype:
    """The type of gradients between kernels: float16 has no place for small ones."""
    return torch.bfloat16 if gradient.dtype == torch.bfloat16 else torch.float32


def _of_table(d_bias: Tensor, given: Inputs) -> Tensor:
    """The table's gradient from that of the bias of all pairs.

    Gathered, not scattered: a cell finds an entry for one query of an axis or none, so that every
    entry knows whom to ask, and sums them in the same order every time.
    """
    assert given.rows is not None and given.columns is not None
    heads, height, width, cells_high, cells_wide = d_bias.shape
    rows, columns, _ = given.bias.shape
    d_table = torch.empty((rows, columns, heads), dtype=torch.float32, device=d_bias.device)
    tiles = blocks("aggregated_attention.table")
    launch.run(
        table_kernel,
        (rows, launch.cdiv(columns, tiles.sizes["BC"]), heads),
        d_bias,
        _found(given.rows, rows),
        _found(given.columns, columns),
        d_table,
        heads,
        height,
        width,
        cells_high,
        cells_wide,
        columns,
        blocks=tiles,
    )
    return d_table


def _found(index: Tensor, length: int) -> Tensor:
    """(length, cells): for which position each cell finds an entry of the table, or −1."""
    positions = torch.arange(index.shape[0], device=index.device)[:, None].expand_as(index)
    found = torch.full((length, index.shape[1]), -1, device=index.device)
    return found.scatter_(0, index, positions)


def _of_keys(gradient: Tensor, ds: Tensor, share: Tensor, given: Inputs) -> tuple[Tensor, Tensor]:
    """The gradients of the window's keys and values."""
    batch, height, width, heads, _ = given.key.shape
    d_key, d_value = (
        torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (given.key, given.value)
    )
    tiles = given.tiles("keys")
    numbers = given.numbers()
    constants = given.constants()
    constants.pop("TABLE")
    launch.run(
        key_kernel,
        (heads, launch.cdiv(height * width, tiles.sizes["BM"]), batch),
        given.query,
        given.key,
        given.embedding,
        gradient,
        ds,
        share,
        d_key,
        d_value,
        *numbers[:3],
        *numbers[6:8],
        blocks=tiles,
        **constants,
    )
    return d_key, d_value


def _of_pooled(
    gradient: Tensor, norms: Tensor, delta: Tensor, given: Inputs
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of pooled keys and values; what embedding and scale have from these keys."""
    batch, rows, columns, heads, channels = given.pooled_key.shape
    keys, values = given.pooled_key, given.pooled_value
    d_key, d_value = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (keys, values))
    tiles = given.tiles("pooled")
    grid = (heads, launch.cdiv(rows * columns, tiles.sizes["BN"]), batch)
    learned = torch.empty(
        (batch * grid[1], heads, channels + 1), dtype=torch.float32, device=keys.device
    )
    numbers = given.numbers()
    launch.run(
        pooled_kernel,
        grid,
        given.query,
        keys,
        values,
        given.embedding,
        given.scale,
        given.bias,
        given.rows,
        given.columns,
        gradient,
        norms,
        delta,
        d_key,
        d_value,
        learned,
        *numbers[:7],
        *numbers[9:],
        blocks=tiles,
        **given.constants(),
    )
    return d_key, d_value, learned.sum(0)
