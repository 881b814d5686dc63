"""Rows of a map in chunks, so that what is computed for one chunk at a time stays small."""

import torch

CHUNK_BYTES = 16 * 2**20
# What a processor's cache holds: for what is made and used at once.
CACHED_BYTES = 2 * 2**20


def row_chunks(height: int, bytes_per_row: int, limit: int | None = None) -> list[tuple[int, int]]:
    """(start, stop) of chunks that cover `height` rows, each within `limit` (16 MiB) if one row is.

    While compiling or exporting there is one chunk: heights are symbols there.
    """
    if torch.compiler.is_compiling():
        return [(0, height)]
    rows = max((limit or CHUNK_BYTES) // max(bytes_per_row, 1), 1)
    return [(start, min(start + rows, height)) for start in range(0, height, rows)]
