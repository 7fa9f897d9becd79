"""Patterns as unit vectors: what distances by angle are made of, and the rows that have none."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

__all__ = ["NEAR", "Normalise", "lengths_of", "row_lengths", "unit_rows"]

Normalise = Literal["none", "length", "centered length"]

# a pair is recomputed by difference when its squared distance is below this share of its squared norms:
# the product form is off by some 10 eps of the norms, so what stays is good to about 3 digits (float64: 10)
NEAR = {torch.float32: 1e-3, torch.float64: 1e-5}
# channels whose squares are added up at once in float32
_NORM_BLOCK = 2048


def unit_rows(patterns: Tensor, kind: Normalise) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Rows (..., n, channels) divided by their lengths, 1 / lengths, and the undefined rows, if any.

    Without normalisation the rows are the patterns and there are no lengths. Undefined rows hold zeros.
    """
    if kind == "none":
        if bool(patterns.sum().isfinite()):
            return patterns, None, None
        undefined = ~patterns.isfinite().all(-1)
        return patterns.masked_fill(undefined[..., None], 0), None, undefined
    rows, inverse, bad = lengths_of(patterns, kind)
    in_place = rows if rows is not patterns else None
    return torch.mul(rows, inverse[..., None], out=in_place), inverse, bad


def lengths_of(patterns: Tensor, kind: Normalise) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows, centred over channels where asked for, 1 / their lengths, and the undefined rows, if any."""
    if kind == "centered length":
        rows, lengths, floor = _row_centred(patterns)
    else:
        rows, lengths = patterns, row_lengths(patterns)
        floor = lengths.new_tensor(torch.finfo(lengths.dtype).tiny)
    bad = ~((lengths > floor) & lengths.isfinite())
    inverse = (1 / lengths).masked_fill_(bad, 0)
    if not bool(bad.any()):
        return rows, inverse, None
    return rows.masked_fill(bad[..., None], 0), inverse, bad


def _row_centred(patterns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows less their mean, their lengths, and the length up to which a row is constant but for rounding."""
    root, dtype = math.sqrt(patterns.shape[-1]), torch.finfo(patterns.dtype)
    mean = patterns.mean(-1, keepdim=True)
    rows = patterns - mean
    lengths = row_lengths(rows)
    offset = mean[..., 0].abs() * root
    if bool((offset > 64 * lengths).any()):  # the rounding of a large mean is an offset of its own
        rows -= rows.mean(-1, keepdim=True)
        lengths = row_lengths(rows)
    return rows, lengths, (8 * dtype.eps * offset).clamp_min(dtype.tiny)


def row_lengths(rows: Tensor) -> Tensor:
    """Lengths of rows, by blocks of channels.

    In one go, float32 adds up one number after the other, and of many that are alike (a grey background in
    the first layers of a network) each rounding goes the same way: off by 5e-4 with 800,000 channels.
    """
    blocks = [torch.linalg.vector_norm(block, dim=-1) for block in torch.split(rows, _NORM_BLOCK, -1)]
    lengths: Tensor = blocks[0]
    if len(blocks) > 1:
        lengths = torch.linalg.vector_norm(torch.stack(blocks, -1), dim=-1)
    return lengths
