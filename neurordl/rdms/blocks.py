"""Squared distances of patterns that come in blocks, for RDMs without gradient: the result and a block.

The same distances as `neurordl.rdms.distances`, whose normalisation and near pairs these are; numpy's product
of a matrix with itself is a symmetric one (syrk), which is half of a full product.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurordl.rdms.normalise import NEAR, Normalise, row_lengths, unit_rows

__all__ = ["add_distances", "triangle_start"]

Array = npt.NDArray[np.floating]
Rows = Callable[[int, int], Tensor]

_KEPT = (
    1 << 27
)  # bytes of normalised patterns that are kept at once; beyond, they are made again for each block
_BLOCK = 1 << 26  # bytes of a block of patterns that are not kept, at most; and an eighth of all
_SQUARE = 2048  # stimuli of a block whose patterns are kept
_SLAB = 64  # rows that are finished at once, small enough for the cache


def triangle_start(n: int, row: int) -> int:
    """Where the pairs (row, row + 1), (row, row + 2), ... of ``n`` stimuli begin in condensed order."""
    return row * n - row * (row + 1) // 2


def add_distances(
    rows: Rows,
    n: int,
    channels: int,
    normalise: Normalise,
    out: Array,
    *,
    scale: float = 1.0,
    add: bool = False,
) -> None:
    """Write, or add, ``scale`` times the squared distances of ``n`` patterns.

    Parameters
    ----------
    rows
        Patterns from one stimulus up to another, (stop - start, channels), in the precision to compute in.
    n, channels
        Of all patterns.
    normalise
        As in `squared_distances`.
    out
        (n(n-1)/2,), the condensed result; it may be a memory map.
    scale, add
        The factor, and whether to add to what ``out`` holds.
    """
    source = _Unit(rows, n, channels, normalise)
    most = max(64, min(n // 8, _BLOCK // source.row_bytes))
    step = min(n, most if source.kept is None else _SQUARE)
    width = step if source.kept is not None else max(32, step // 4)
    for start in range(0, n, step):
        left = source.block(start, min(n, start + step))
        _finish(left @ left.T, left, left, start, start, source, out, scale, add)
        for begin in range(start + len(left), n, width):
            right = source.block(begin, min(n, begin + width))
            _finish(left @ right.T, left, right, start, begin, source, out, scale, add)


class _Unit:
    """Normalised patterns less their mean over stimuli: kept where they are few, else made at each call."""

    def __init__(self, rows: Rows, n: int, channels: int, normalise: Normalise) -> None:
        self.rows, self.n, self.normalise = rows, n, normalise
        first, _, _ = unit_rows(rows(0, 1), normalise)
        dtype = first.numpy().dtype
        self.near = NEAR[first.dtype]
        self.row_bytes = channels * dtype.itemsize
        self.kept: Array | None = None
        buffer = np.empty((n, channels), dtype) if n * self.row_bytes <= _KEPT else None
        self.undefined = np.zeros(n, dtype=bool)
        self.mean = np.zeros(channels, dtype)
        piece = max(1, min(n, (1 << 22) // self.row_bytes))
        for start in range(0, n, piece):
            unit = self._unit(start, min(n, start + piece))
            self.mean += unit.sum(axis=0)
            if buffer is not None:
                buffer[start : start + piece] = unit
        self.mean /= n  # rough in float32; it only has to make the rows small
        if buffer is not None:
            buffer -= self.mean
            self.kept = buffer
        self.norms = np.empty(n, dtype)
        for start in range(0, n, piece):
            block = self.block(start, min(n, start + piece))
            self.norms[start : start + piece] = row_lengths(torch.from_numpy(block)).square_().numpy()

    def _unit(self, start: int, stop: int) -> Array:
        unit, _, bad = unit_rows(self.rows(start, stop), self.normalise)
        if bad is not None:
            self.undefined[start:stop] = bad.numpy()
        return np.asarray(unit.numpy())

    def block(self, start: int, stop: int) -> Array:
        if self.kept is not None:
            return self.kept[start:stop]
        block = np.empty((stop - start, len(self.mean)), self.mean.dtype)
        piece = max(1, (1 << 22) // self.row_bytes)
        for first in range(start, stop, piece):
            last = min(stop, first + piece)
            np.subtract(self._unit(first, last), self.mean, out=block[first - start : last - start])
        return block


def _finish(
    gram: Array,
    left: Array,
    right: Array,
    first: int,
    begin: int,
    source: _Unit,
    out: Array,
    scale: float,
    add: bool,
) -> None:
    """From inner products of two blocks to distances, near pairs by difference, into the condensed form."""
    n, symmetric = source.n, first == begin
    row_norms, norms = source.norms[first : first + len(left)], source.norms[begin : begin + len(right)]
    undefined = source.undefined[begin : begin + len(right)]
    for top in range(0, len(left), _SLAB):
        lead = top if symmetric else 0  # pairs left of the diagonal are not looked at
        slab = gram[top : top + _SLAB, lead:]
        limit = row_norms[top : top + _SLAB, None] + norms[None, lead:]
        slab *= -2
        slab += limit
        limit *= source.near
        row, column = np.nonzero(slab < limit)
        if symmetric:
            row, column = row[column > row], column[column > row]
        if len(row):
            slab[row, column] = _by_difference(left, right, row + top, column + lead)
        if undefined.any():
            slab[:, undefined[lead:]] = math.nan
        if scale != 1.0:
            slab *= scale
        for k in range(len(slab)):
            number = first + top + k
            past = k + 1 if symmetric else 0
            at = triangle_start(n, number) + begin + lead + past - number - 1
            values = math.nan if source.undefined[number] else slab[k, past:]
            if add:
                out[at : at + slab.shape[1] - past] += values
            else:
                out[at : at + slab.shape[1] - past] = values


def _by_difference(
    left: Array, right: Array, row: npt.NDArray[np.intp], column: npt.NDArray[np.intp]
) -> Array:
    found = np.empty(len(row), left.dtype)
    step = max(1, (1 << 20) // left.shape[1])
    for start in range(0, len(row), step):
        difference = left[row[start : start + step]] - right[column[start : start + step]]
        found[start : start + step] = np.einsum("ij,ij->i", difference, difference)
    return found
