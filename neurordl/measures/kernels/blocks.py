"""Squared distances of patterns that come in blocks, for RDMs without gradient: the result and a block.

The same distances as `distances`, whose normalisation and near pairs these are; numpy's product
of a matrix with itself is a symmetric one (syrk), which is half of a full product. Blocks may have two sides,
x and y: then the distances are (xi - xj) · (yi - yj), which is Mahalanobis's for y = x P (and no factor of P
is needed), and the symmetrised divergence of Poisson rates x with the logarithms y.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.condensed import triangle_start
from neurordl.measures.kernels.normalise import NEAR, Normalise, row_lengths, unit_rows

__all__ = ["Rows", "add_distances"]

Array = npt.NDArray[np.floating]
Rows = Callable[[int, int], tuple[Tensor, ...]]
Sides = tuple[Array, ...]

# bytes of normalised patterns that are kept at once; beyond, they are made again for each block
_KEPT = 1 << 27
_BLOCK = 1 << 26  # bytes of a block of patterns that are not kept, at most; and an eighth of all
_SQUARE = 2048  # stimuli of a block whose patterns are kept
_SLAB = 64  # rows that are finished at once, small enough for the cache
_PIECE = 1 << 22  # bytes of patterns that are normalised at once
_SAMPLE = 8  # stimuli from whose mean it is seen whether patterns have a large one in common
_COMMON = 16.0  # share of that mean in the patterns, up to which float64 bears it


def add_distances(
    rows: Rows,
    n: int,
    channels: int,
    normalise: Normalise,
    out: Array,
    *,
    scale: float = 1.0,
    add: bool = False,
    there: bool = False,
) -> None:
    """Write, or add, ``scale`` times the squared distances of ``n`` patterns.

    Parameters
    ----------
    rows
        Patterns from one stimulus up to another, (stop - start, channels), in the precision to compute in:
        one side, or two, of which the distances must not be negative.
    n, channels
        Of all patterns.
    normalise
        As in `squared_distances`; two sides take "none".
    out
        (n(n-1)/2,), the condensed result; it may be a memory map.
    scale, add
        The factor, and whether to add to what ``out`` holds.
    there
        Whether patterns are views of what is there already, so that all of them at once take no memory.

    Raises
    ------
    NeurordlError
        Two sides have a negative distance: the precision is not positive semidefinite.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        blocks = _Blocks(rows, n, channels * out.dtype.itemsize, normalise, there)
        most = max(64, min(n // 8, _BLOCK // (channels * out.dtype.itemsize)))
        step = min(n, most if blocks.kept is None else _SQUARE)
        width = step if blocks.kept is not None else max(32, step // 4)
        for start in range(0, n, step):
            left = blocks.sides(start, min(n, start + step))
            gram = left[0] @ left[-1].T
            norms = _defined(gram.diagonal())
            if len(left) > 1:
                gram = (gram + gram.T) / 2
            bounds = norms if len(left) == 1 else blocks.bounds(left)
            own = (left, norms, bounds)
            _finish(gram, own, own, (start, start), n, out, scale, add)
            for begin in range(start + len(left[0]), n, width):
                right = blocks.sides(begin, min(n, begin + width))
                gram = left[0] @ right[-1].T
                if len(left) > 1:
                    gram = (gram + left[1] @ right[0].T) / 2
                beside = _beside(blocks, right)
                _finish(gram, own, beside, (start, begin), n, out, scale, add)


Block = tuple[Sides, Array, Array]


def _beside(blocks: _Blocks, sides: Sides) -> Block:
    if len(sides) > 1:
        return sides, _defined(np.einsum("ij,ij->i", *sides)), blocks.bounds(sides)
    norms = _defined(row_lengths(torch.from_numpy(sides[0])).square_().numpy())
    return sides, norms, norms


def _defined(norms: Array) -> Array:
    """Squared norms, NaN where they are not finite: so are then the distances of that pattern."""
    return np.where(np.isfinite(norms), norms, norms.dtype.type(math.nan))


class _Blocks:
    """Normalised patterns less a common offset: kept where they are few, else made at each call."""

    def __init__(self, rows: Rows, n: int, row_bytes: int, normalise: Normalise, there: bool) -> None:
        self.rows, self.normalise = rows, normalise
        self.offsets: list[Array | None] = [None, None]
        self.kept: Sides | None = None
        self.piece = n if normalise == "none" else max(1, _PIECE // row_bytes)
        fits = n * row_bytes <= _KEPT
        whole = normalise == "none" and (fits or there)
        sides = self._unit(0, n if whole else min(n, _SAMPLE))
        sample = tuple(one[:: math.ceil(len(one) / _SAMPLE)] for one in sides)
        self.offsets = [_offset(one, needed=normalise == "none") for one in sample]
        self.balance = 1.0
        if len(sides) > 1:
            left, right = (max(float(np.nansum(np.square(one))), 1e-300) for one in sample)
            self.balance = math.sqrt(right / left)
        if whole and (fits or self.offsets[0] is None):
            self.kept = tuple(
                one if offset is None else one - offset
                for one, offset in zip(sides, self.offsets, strict=True)
            )
        elif fits:
            self.kept = self.sides(0, n)

    def _unit(self, start: int, stop: int) -> Sides:
        found = self.rows(start, stop)
        if self.normalise == "none":  # a NaN makes the norm NaN, and so all distances of its row
            return tuple(np.asarray(one.numpy()) for one in found)
        unit, _, bad = unit_rows(found[0], self.normalise)
        if bad is not None:
            unit[bad] = math.nan
        return (np.asarray(unit.numpy()),)

    def sides(self, start: int, stop: int) -> Sides:
        """Patterns from one stimulus up to another."""
        if self.kept is not None:
            return tuple(one[start:stop] for one in self.kept)
        made: Sides = ()
        for first in range(start, stop, self.piece):
            units = self._unit(first, min(stop, first + self.piece))
            made = made or tuple(np.empty((stop - start, one.shape[1]), one.dtype) for one in units)
            for unit, offset, side in zip(units, self.offsets, made, strict=True):
                at = side[first - start : first - start + len(unit)]
                np.subtract(unit, 0 if offset is None else offset, out=at)
        return made

    def bounds(self, sides: Sides) -> Array:
        """For each pattern of two sides what, summed over a pair, is no less than |xi| |yj|."""
        left, right = (row_lengths(torch.from_numpy(one)).square_().numpy() for one in sides)
        return _defined((left * self.balance + right / self.balance) / 2)


def _offset(sample: Array, *, needed: bool) -> Array | None:
    """Rough mean of patterns, which distances do not see; None where float64 bears it."""
    sound = sample
    mean: Array = sound.mean(axis=0)
    if not np.isfinite(mean).all():
        sound = sample[np.isfinite(sample).all(axis=1)]
        if not len(sound):
            return None
        mean = sound.mean(axis=0)
    if needed and sample.dtype == np.float64:
        spread = float(np.square(sound - mean).sum()) / len(sound)
        if float(np.square(mean).sum()) <= _COMMON * spread:
            return None
    return mean


def _finish(
    gram: Array,
    left: Block,
    right: Block,
    starts: tuple[int, int],
    n: int,
    out: Array,
    scale: float,
    add: bool,
) -> None:
    """From inner products of two blocks to distances, near pairs by difference, into the condensed form."""
    first, begin = starts
    symmetric = first == begin
    same = left[1] is left[2]
    near = NEAR[torch.float32 if gram.dtype == np.float32 else torch.float64]
    for top in range(0, len(gram), _SLAB):
        lead = top if symmetric else 0  # pairs left of the diagonal are not looked at
        slab = gram[top : top + _SLAB, lead:]
        norms = left[1][top : top + _SLAB, None] + right[1][None, lead:]
        slab *= -2
        slab += norms
        limit = norms if same else left[2][top : top + _SLAB, None] + right[2][None, lead:]
        limit *= near
        row, column = np.nonzero(slab < limit)
        if symmetric:
            row, column = row[column > row], column[column > row]
        if len(row):
            exact = _by_difference(left[0], right[0], row + top, column + lead)
            _check_sign(exact, limit[row, column] / near)
            slab[row, column] = np.maximum(exact, 0)
        if scale != 1.0:
            slab *= scale
        for k in range(len(slab)):
            number = first + top + k
            past = k + 1 if symmetric else 0
            at = triangle_start(n, number) + begin + lead + past - number - 1
            if add:
                out[at : at + slab.shape[1] - past] += slab[k, past:]
            else:
                out[at : at + slab.shape[1] - past] = slab[k, past:]


def _by_difference(
    left: Sides, right: Sides, row: npt.NDArray[np.intp], column: npt.NDArray[np.intp]
) -> Array:
    found = np.empty(len(row), left[0].dtype)
    step = max(1, (1 << 20) // left[0].shape[1])
    for start in range(0, len(row), step):
        one, other = row[start : start + step], column[start : start + step]
        differences = [x[one] - y[other] for x, y in zip(left, right, strict=True)]
        found[start : start + step] = np.einsum("ij,ij->i", differences[0], differences[-1])
    return found


def _check_sign(distances: Array, bounds: Array) -> None:
    wrong = distances < -math.sqrt(np.finfo(distances.dtype).eps) * bounds
    if wrong.any():
        raise NeurordlError(
            f"the precision gives a squared distance of {float(distances[wrong].min()):.3g}: it is not "
            "positive semidefinite; give the inverse of a covariance, a shrunken one if need be"
        )
