"""The engine of all dissimilarities: squared distances between patterns.

Distances come from one matrix product of patterns less their mean; pairs that cancellation would spoil are
computed again by difference. There are four ways, with the same numbers: `squared_distances` with a gradient
in closed form; without a gradient, `add_distances` block by block into the condensed result, or a few
channels at a time for very wide patterns; and `distance_matrices` for many small batches, which leaves near
pairs to its caller.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from neurordl.errors import NeurordlError
from neurordl.measures.condensed import condensed_index, pair_number, square, square_index

Normalize = Literal["none", "length", "centered length"]
Array = npt.NDArray[np.floating]
Sides = tuple[Tensor, ...]
Rows = Callable[[int, int], Sides]

WIDE = 1 << 15
"""Channels from which on few patterns without gradient are added up in float64, some channels at a time."""

# a pair is computed again by difference when its squared distance is below this share of its squared norms:
# the product form is off by some 10 eps of the norms, so what stays is good to about 3 digits (float64: 10)
_NEAR = {torch.float32: 1e-3, torch.float64: 1e-5}
# on GPUs, in float64: the share of squared norms that is only rounding; products that any GPU does in time
_EPS, _ZERO = torch.finfo(torch.float32).eps, 32 * torch.finfo(torch.float64).eps
_FEW_PRODUCTS, _PARTS = 1 << 29, 32
_FACTORS = WeakTensorKeyDictionary()
_MANY = 128  # stimuli from which on an RDM without gradient is worth a product of its own
_NORM_CHANNELS = 2048  # channels whose squares are added up at once in float32
_WIDE_CHANNELS = 2048  # channels of fewer than 128 stimuli in float64 that stay in the cache
# pairs, and elements, that are differenced at once: few operations, and memory that stays small
_PAIRS, _ELEMENTS = 256, 1 << 20
# of patterns that are processed in blocks:
_KEPT = 1 << 27  # bytes of normalized patterns that are kept at once; more are made again for each block
_BLOCK = 1 << 26  # most bytes of a block that is not kept; it has at most an eighth of all stimuli
_SQUARE = 2048  # stimuli of a block whose patterns are kept
_SLAB = 64  # rows that are finished at once, few enough for the cache
_PIECE = 1 << 22  # bytes of patterns that are normalized at once
_SAMPLE = 8  # stimuli whose mean shows whether patterns have a large one in common
_COMMON = 16.0  # ratio of that mean's square to the variance up to which float64 loses no digits that matter


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute matrix products in the precision of their inputs: no autocast, no TF32, no bfloat16."""
    before = torch.get_float32_matmul_precision()
    with torch.autocast(device.type, enabled=False):
        if before == "highest":
            yield
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def floating(patterns: Tensor) -> Tensor:
    """Return patterns in float32 or float64; refuse all but tensors (..., stimuli, channels) of floats."""
    if not isinstance(patterns, Tensor) or not patterns.is_floating_point():
        dtype = patterns.dtype if isinstance(patterns, Tensor) else type(patterns).__name__
        raise NeurordlError(f"patterns are a tensor of floating-point numbers, not {dtype}; convert them")
    if patterns.ndim < 2 or not patterns.shape[-1]:
        raise NeurordlError(f"patterns are (..., stimuli, channels), not of shape {tuple(patterns.shape)}")
    return patterns if patterns.dtype in _NEAR else patterns.float()


def squared_distances(patterns: Tensor, normalize: Normalize = "none") -> Tensor:
    """Squared Euclidean distances between the rows of each (n, channels), condensed.

    Parameters
    ----------
    patterns
        (..., n, channels); half precision is computed in float32.
    normalize
        Nothing, division of each row by its length, or centering over channels and then division by its
        length.

    Returns
    -------
    Tensor
        (..., n(n-1)/2), never negative; NaN, with a gradient of zero, where a row holds NaN or infinity or
        has no length (a constant one, when centered: its spread is not above the rounding of its mean).
    """
    patterns = floating(patterns)
    *lead, n, channels = patterns.shape
    if n < 2:
        return patterns.sum((-2, -1))[..., None][..., :0]
    batch = patterns.reshape(math.prod(lead), n, channels)
    if not (patterns.requires_grad and torch.is_grad_enabled()):
        batch = batch.detach()
        if n >= _MANY and patterns.device.type == "cpu":
            condensed = batch.new_empty(len(batch), n * (n - 1) // 2)
            for k, out in enumerate(condensed.numpy()):
                rows = _rows_of(batch[k])
                add_distances(rows, (n, channels), out, normalize, in_memory=True)
            return condensed.reshape(*lead, condensed.shape[-1])
        if n < _MANY and channels >= WIDE and not lead:
            return _wide_distances(batch[0], normalize).to(patterns.dtype)
    engine = _InDoubles if _fit_for_doubles(batch) else _SquaredDistances
    with full_precision(patterns.device):
        condensed = cast("Callable[[Tensor, Normalize], Tensor]", engine.apply)(batch, normalize)
    return condensed.reshape(*lead, condensed.shape[-1])


def _rows_of(patterns: Tensor) -> Rows:
    return lambda start, stop: (patterns[start:stop],)


# with a gradient


class _SquaredDistances(torch.autograd.Function):
    """(batch, n, channels) -> (batch, pairs)."""

    @staticmethod
    def forward(ctx: Any, patterns: Tensor, normalize: Normalize) -> Tensor:
        rows, mean, inverse, undefined = _centered(patterns, normalize)
        n = rows.shape[-2]
        row, column = condensed_index(n, rows.device)
        distances, near = _from_products(rows @ rows.mT, row, column)
        if undefined is not None:
            pairs = undefined[:, row] | undefined[:, column]
            near &= ~pairs
            distances.masked_fill_(pairs, math.nan)
        batch, pair = near.nonzero(as_tuple=True)
        left, right = batch * n + row[pair], batch * n + column[pair]
        if len(pair):
            flat = rows.flatten(0, 1)
            distances[batch, pair] = _by_difference((flat,), (flat,), left, right)
        ctx.save_for_backward(rows, mean, inverse, distances, batch, pair, left, right)
        return distances

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # |zi - zj|² with weight wij moves zi by 2 wij (zi - zj), and xi by 1/|xi| of what of it is across zi:
        # the part along zi is the sum over j of wij |zi - zj|²
        rows, mean, inverse, distances, batch, pair, left, right = ctx.saved_tensors
        defined = distances.isfinite()
        weights = torch.where(defined, gradient, 0)
        far = weights.index_put((batch, pair), weights.new_zeros(())) if len(pair) else weights
        matrix = -2 * square(far)
        matrix.diagonal(dim1=-2, dim2=-1).sub_(matrix.sum(-1))
        along = None
        if inverse is not None:
            along = -inverse * square(torch.where(defined, weights * distances, 0)).sum(-1)
            matrix.mul_(inverse[..., None]).diagonal(dim1=-2, dim2=-1).add_(along)
        with full_precision(rows.device):
            result = matrix @ rows
        if along is not None:
            result.addcmul_(along[..., None], mean)  # the rows were kept less their mean
        moved = (weights * distances)[batch, pair].nonzero().flatten()  # equal patterns exert no pull
        if len(moved):
            left, right, scale = left[moved], right[moved], 2 * weights[batch[moved], pair[moved]]
            norms = torch.ones_like(rows[..., 0]) if inverse is None else inverse
            flat, target = rows.flatten(0, 1), result.flatten(0, 1)
            for pairs, channels in _pair_blocks(len(left), rows.shape[-1]):
                first, second = left[pairs], right[pairs]
                pull = (flat[:, channels][first] - flat[:, channels][second]).mul_(scale[pairs, None])
                target[:, channels].index_add_(0, first, pull * norms.flatten()[first, None])
                target[:, channels].index_add_(0, second, pull.mul_(-norms.flatten()[second, None]))
        return result, None


class _InDoubles(torch.autograd.Function):
    """The same for float32 on a GPU: products in float64 spoil no near pair, so no value is looked at.

    A look would make the program wait for the device, and a graph of a training step could not be captured.
    """

    @staticmethod
    def forward(ctx: Any, patterns: Tensor, normalize: Normalize) -> Tensor:
        channels = patterns.shape[-1]
        gram, sums = _inner_products(patterns.double()), None
        if normalize == "centered length":
            sums = patterns.sum(-1, dtype=torch.float64)[..., None]
            gram = torch.baddbmm(gram, sums, sums.mT, alpha=-1 / channels)
        norms, inverse = gram.diagonal(dim1=-2, dim2=-1)[..., None], None
        if normalize == "none":
            norms = norms + (norms - norms)  # NaN if it is infinite
            distances = torch.sub(norms + norms.mT, gram, alpha=2)
            distances.masked_fill_(distances < _ZERO * (norms + norms.mT), 0)
        else:
            floor = 0.0 if sums is None else sums.square() * ((8 * _EPS) ** 2 / channels)
            inverse = norms.masked_fill(norms <= floor, math.nan).rsqrt()
            gram = gram.mul_(inverse).mul_(inverse.mT)
            distances = torch.nn.functional.threshold(torch.rsub(gram, 2, alpha=2), _ZERO, 0.0)
        places, pairs = square_index(patterns.shape[-2], patterns.device)
        ctx.save_for_backward(patterns, distances, sums, inverse, pairs)
        return distances.flatten(-2).index_select(-1, places).to(patterns.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # as in `_SquaredDistances`, with the sum of a row less what of it is along this row's own pattern
        patterns, distances, sums, inverse, pairs = ctx.saved_tensors
        weights = gradient.double().index_select(-1, pairs).view(distances.shape)
        # undefined pairs, and equal patterns, exert no pull
        weights.masked_fill_(distances.gt(0).logical_not_(), 0)
        rows = patterns.double()
        rows.masked_fill_(distances.diagonal(dim1=-2, dim2=-1)[..., None].isnan(), 0)
        if inverse is None:
            weights.diagonal(dim1=-2, dim2=-1).sub_(weights.sum(-1))
            return (weights.mul_(-2) @ rows).to(patterns.dtype), None
        inverse = inverse.nan_to_num(0.0)
        # |zi - zj|² = 2 - 2 zi zj, so the part along zi is the sum over j of wij (1 - |zi - zj|² / 2)
        along = torch.addcmul(weights, weights, distances, value=-0.5).nansum(-1, keepdim=True)
        weights.mul_(inverse.mT).diagonal(dim1=-2, dim2=-1).sub_((along * inverse)[..., 0])
        weights.mul_(-2 * inverse)
        result = weights @ rows
        if sums is None:
            return result.to(patterns.dtype), None
        common = weights @ sums.nan_to_num(0.0, 0.0, 0.0)
        out = torch.empty_like(patterns, memory_format=torch.contiguous_format)
        return torch.sub(result, common, alpha=1 / patterns.shape[-1], out=out), None


def _fit_for_doubles(batch: Tensor) -> bool:
    """Whether patterns are float32 on a device with fast float64, or are few enough for any GPU."""
    if batch.dtype != torch.float32 or batch.device.type in ("cpu", "mps"):
        return False
    if batch.device.type != "cuda" or batch.shape[-2] * batch.numel() <= _FEW_PRODUCTS:
        return True
    major, minor = torch.cuda.get_device_capability(batch.device)
    return major in range(6, 11) and minor == 0  # data-center GPUs; others have 1/64 of their float32 speed


def _inner_products(rows: Tensor) -> Tensor:
    """Inner products of the rows of each (n, channels)."""
    batch, n, channels = rows.shape
    parts = math.gcd(channels, _PARTS)
    if batch > 1 or channels < _NORM_CHANNELS or parts == 1:
        return rows @ rows.mT
    # a product of few rows with many channels keeps few processors of a GPU busy
    split = rows[0].view(n, parts, channels // parts).transpose(0, 1)
    return (split @ split.mT).sum(0, keepdim=True)


def _centered(patterns: Tensor, normalize: Normalize) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Normalized rows less their mean over stimuli; that mean; 1 / lengths; the undefined rows, if any.

    Distances do not depend on the common mean, and it may be rough: it only has to make the rows small.
    """
    n = patterns.shape[-2]
    if normalize == "none":
        weights = patterns.new_full((*patterns.shape[:-2], 1, n), 1 / n)
        mean = weights @ patterns
        if bool(mean.isfinite().all()):
            return patterns - mean, mean, None, None
        undefined = ~patterns.isfinite().all(-1)
        rows = patterns.masked_fill(undefined[..., None], 0)
        mean = weights @ rows
        return rows - mean, mean, None, undefined
    rows, inverse, missing = _inverse_lengths(patterns, normalize)
    mean = (inverse / n)[..., None, :] @ rows
    in_place = rows if rows is not patterns else None
    return torch.addcmul(-mean, rows, inverse[..., None], out=in_place), mean, inverse, missing


def _inverse_lengths(patterns: Tensor, normalize: Normalize) -> tuple[Tensor, Tensor, Tensor | None]:
    """Rows, centered over channels if so normalized; 1 / their lengths; the undefined rows, if any."""
    rows, limits = patterns, torch.finfo(patterns.dtype)
    if normalize == "centered length":
        root = math.sqrt(patterns.shape[-1])
        mean = patterns.mean(-1, keepdim=True)
        rows = patterns - mean
        lengths, offset = _row_lengths(rows), mean[..., 0].abs() * root
        if bool((offset > 64 * lengths).any()):  # the rounding of a large mean is an offset of its own
            rows -= rows.mean(-1, keepdim=True)
            lengths = _row_lengths(rows)
        # up to here a row is constant but for rounding
        floor = (8 * limits.eps * offset).clamp_min(limits.tiny)
    else:
        lengths = _row_lengths(rows)
        floor = lengths.new_full((), limits.tiny)
    undefined = ~((lengths > floor) & lengths.isfinite())
    inverse = (1 / lengths).masked_fill_(undefined, 0)
    if not bool(undefined.any()):
        return rows, inverse, None
    return rows.masked_fill(undefined[..., None], 0), inverse, undefined


def _row_lengths(rows: Tensor) -> Tensor:
    """Lengths of rows, by blocks of channels.

    At once, float32 adds up one number after the other, and for many that are alike (a gray background in the
    first layers of a network) each rounding goes the same way: off by 5e-4 with 800,000 channels.
    """
    blocks = [torch.linalg.vector_norm(block, dim=-1) for block in torch.split(rows, _NORM_CHANNELS, -1)]
    lengths: Tensor = blocks[0]
    if len(blocks) > 1:
        lengths = torch.linalg.vector_norm(torch.stack(blocks, -1), dim=-1)
    return lengths


def _from_products(gram: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
    """Condensed squared distances from inner products (batch, n, n), and which of them are near."""
    # index_select: indexing in brackets runs on several threads, whose start costs more than the work
    norms = gram.diagonal(dim1=-2, dim2=-1)
    norms = norms.index_select(1, row) + norms.index_select(1, column)
    distances = norms - 2 * gram.flatten(-2).index_select(1, row * gram.shape[-1] + column)
    return distances, distances < _NEAR[gram.dtype] * norms


def _by_difference(left: Sides, right: Sides, row: Tensor, column: Tensor) -> Tensor:
    """Squared distances between rows of left and right; of two sides x and y (xi - xj) · (yi - yj)."""
    result = left[0].new_zeros(len(row))
    for pairs, channels in _pair_blocks(len(row), left[0].shape[-1]):
        differences = [
            x[:, channels].index_select(0, row[pairs]).sub_(y[:, channels].index_select(0, column[pairs]))
            for x, y in zip(left, right, strict=True)
        ]
        result[pairs] += differences[0].mul_(differences[-1]).sum(-1)
    return result


def _pair_blocks(pairs: int, channels: int) -> Iterator[tuple[slice, slice]]:
    width = _ELEMENTS // min(pairs, _PAIRS)
    for start in range(0, channels, width):
        for first in range(0, pairs, _PAIRS):
            yield slice(first, first + _PAIRS), slice(start, start + width)


# without a gradient


def _wide_distances(patterns: Tensor, normalize: Normalize) -> Tensor:
    """Condensed squared distances of few patterns (n, channels) with very many channels, in float64.

    Early layers of a network have a million channels: copies of all of them cost more time than the products.
    """
    n, channels = patterns.shape
    blocks = torch.split(patterns, _WIDE_CHANNELS, -1)
    guess = patterns.new_zeros(n, 1, dtype=torch.float64)
    if normalize == "centered length":  # what it leaves of a row's mean is taken out of the products
        guess = blocks[0].double().mean(-1, keepdim=True)
    gram, sums = patterns.new_zeros(n, n, dtype=torch.float64), torch.zeros_like(guess)
    buffer = patterns.new_empty(n, min(_WIDE_CHANNELS, channels), dtype=torch.float64)
    for block in blocks:
        part = buffer[:, : block.shape[1]].copy_(block)
        if normalize == "centered length":
            sums += part.sub_(guess).sum(-1, keepdim=True)
        elif normalize == "none":  # distances do not depend on a common offset, and a large one costs digits
            offset = part.mean(0)
            part -= torch.where(offset.isfinite(), offset, 0)
        gram.addmm_(part, part.mT)
    means = guess + sums / channels
    gram.addmm_(sums, sums.mT, alpha=-1 / channels)
    squares = gram.diagonal()
    inverse = torch.where(squares.isfinite(), 1.0, torch.nan)
    if normalize != "none":
        limits = torch.finfo(torch.float64)
        rounding = (8 * limits.eps * math.sqrt(channels) * means[:, 0].abs()).clamp_min(limits.tiny)
        inverse = torch.where(squares.sqrt() > rounding, inverse / squares.sqrt(), torch.nan)
    row, column = condensed_index(n, patterns.device)
    distances, near = _from_products((gram * inverse[:, None] * inverse)[None], row, column)
    pair = near[0].nonzero().flatten()
    if len(pair):
        exact = torch.zeros_like(pair, dtype=torch.float64)
        for block in blocks:
            unit = (block.double() - means) * inverse[:, None]
            exact += _by_difference((unit,), (unit,), row[pair], column[pair])
        distances[0, pair] = exact
    return distances[0]


def add_distances(
    rows: Rows,
    shape: tuple[int, int],
    out: Array,
    normalize: Normalize = "none",
    *,
    scale: float = 1.0,
    add: bool = False,
    in_memory: bool = False,
) -> None:
    """Write, or add, ``scale`` times the squared distances of patterns that come in blocks.

    numpy's product of a matrix with itself is a symmetric one (syrk), which takes half the time of a full
    product.

    Parameters
    ----------
    rows
        Returns the patterns from one stimulus up to another, (stop - start, channels), in the precision of
        ``out``. These may be two sides x and y: distances are then (xi - xj) · (yi - yj), which must not be
        negative. That is Mahalanobis's squared distance for y = x P (no factor of P is needed), and the
        symmetrized divergence of Poisson rates x with logarithms y.
    shape
        (n, channels) of all patterns.
    out
        (n(n-1)/2,), the condensed result; it may be a memory map.
    normalize
        As in `squared_distances`; "none" for two sides.
    scale, add
        The factor, and whether to add to what ``out`` holds.
    in_memory
        Whether patterns are views, so that all of them at once take no memory.

    Raises
    ------
    NeurordlError
        Two sides have a negative distance: the precision is not positive semidefinite.
    """
    n, row_bytes = shape[0], shape[1] * out.dtype.itemsize
    with np.errstate(invalid="ignore", over="ignore"):
        blocks = _Blocks(rows, shape, out.dtype, normalize, in_memory)
        step = width = min(n, _SQUARE)
        if blocks.kept is None:
            step = min(n, max(64, min(n // 8, _BLOCK // row_bytes)))
            width = max(32, step // 4)
        for start in range(0, n, step):
            sides = blocks.sides(start, min(n, start + step))
            gram = sides[0] @ sides[-1].T
            left = blocks.block(start, sides, gram.diagonal())
            _write(gram if len(sides) == 1 else (gram + gram.T) / 2, left, left, n, out, scale, add)
            for begin in range(start + len(gram), n, width):
                right = blocks.block(begin, blocks.sides(begin, min(n, begin + width)))
                gram = left.sides[0] @ right.sides[-1].T
                if len(sides) > 1:
                    gram = (gram + left.sides[1] @ right.sides[0].T) / 2
                _write(gram, left, right, n, out, scale, add)


@dataclass(frozen=True)
class _Block:
    """Some patterns: their sides, squared norms, and limits that bound the rounding of products."""

    start: int
    sides: tuple[Array, ...]
    norms: Array
    limits: Array


class _Blocks:
    """Normalized patterns less a rough mean, which distances do not see: kept if few, else made again."""

    def __init__(
        self, rows: Rows, shape: tuple[int, int], dtype: np.dtype[Any], normalize: Normalize, in_memory: bool
    ) -> None:
        self.rows, self.shape, self.dtype, self.normalize = rows, shape, dtype, normalize
        n, row_bytes = shape[0], shape[1] * dtype.itemsize
        self.kept: tuple[Array, ...] | None = None
        fits = n * row_bytes <= _KEPT
        whole = normalize == "none" and (fits or in_memory)
        sides = self._units(0, n if whole else min(n, _SAMPLE))
        sample = [side[:: math.ceil(len(side) / _SAMPLE)] for side in sides]
        self.offsets = [_rough_mean(side, always=normalize != "none") for side in sample]
        self.balance = 1.0
        if len(sides) > 1:
            x, y = (max(float(np.nansum(np.square(side))), 1e-300) for side in sample)
            self.balance = math.sqrt(y / x)
        if whole and (fits or self.offsets[0] is None):
            self.kept = self._shifted(sides)
        elif fits:
            self.kept = self.sides(0, n)

    def sides(self, start: int, stop: int) -> tuple[Array, ...]:
        """Return patterns from one stimulus up to another."""
        if self.kept is not None:
            return tuple(side[start:stop] for side in self.kept)
        if self.normalize == "none":
            return self._shifted(self._units(start, stop))
        result = np.empty((stop - start, self.shape[1]), self.dtype)
        piece = max(1, _PIECE // (self.shape[1] * self.dtype.itemsize))
        for first in range(start, stop, piece):  # only a piece is in memory twice
            (unit,) = self._units(first, min(stop, first + piece))
            offset = 0 if self.offsets[0] is None else self.offsets[0]
            np.subtract(unit, offset, out=result[first - start : first - start + len(unit)])
        return (result,)

    def _units(self, start: int, stop: int) -> tuple[Array, ...]:
        sides = self.rows(start, stop)
        if self.normalize != "none":
            rows, inverse, undefined = _inverse_lengths(sides[0], self.normalize)
            unit = torch.mul(rows, inverse[:, None], out=rows if rows is not sides[0] else None)
            if undefined is not None:
                unit[undefined] = math.nan
            sides = (unit,)
        return tuple(side.numpy() for side in sides)

    def _shifted(self, sides: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(
            side if offset is None else side - offset
            for side, offset in zip(sides, self.offsets, strict=True)
        )

    def block(self, start: int, sides: tuple[Array, ...], norms: Array | None = None) -> _Block:
        """Return patterns as a block; their norms may be given."""
        if len(sides) == 1:
            norms = _defined(_squared_lengths(sides[0]) if norms is None else norms)
            return _Block(start, sides, norms, norms)
        norms = np.einsum("ij,ij->i", *sides) if norms is None else norms
        x, y = (_squared_lengths(side) for side in sides)
        # summed over a pair, the limits are no less than |xi| |yj|
        return _Block(start, sides, _defined(norms), _defined((x * self.balance + y / self.balance) / 2))


def _defined(norms: Array) -> Array:
    """Squared norms, NaN where they are not finite: so are then the distances of that pattern."""
    return np.where(np.isfinite(norms), norms, norms.dtype.type(math.nan))


def _squared_lengths(side: Array) -> Array:
    squares: Array = _row_lengths(torch.from_numpy(side)).square_().numpy()
    return squares


def _rough_mean(sample: Array, *, always: bool) -> Array | None:
    """Mean of a sample of patterns, to be subtracted from all; unless always, None if it costs no digits."""
    sound = sample[np.isfinite(sample).all(axis=1)]
    if not len(sound):
        return None
    mean: Array = sound.mean(axis=0)
    if not always and sample.dtype == np.float64:
        spread = float(np.square(sound - mean).sum()) / len(sound)
        if float(np.square(mean).sum()) <= _COMMON * spread:
            return None
    return mean


def _write(gram: Array, left: _Block, right: _Block, n: int, out: Array, scale: float, add: bool) -> None:
    """Write the distances of two blocks into their place, from products, and near pairs by difference."""
    near = _NEAR[torch.float32 if gram.dtype == np.float32 else torch.float64]
    for top in range(0, len(gram), _SLAB):
        lead = top if left is right else 0  # pairs below the diagonal are ignored
        slab = gram[top : top + _SLAB, lead:]
        slab *= -2
        norms = left.norms[top : top + _SLAB, None] + right.norms[None, lead:]
        slab += norms
        limits = norms
        if len(left.sides) > 1:
            limits = left.limits[top : top + _SLAB, None] + right.limits[None, lead:]
        limits *= near
        row, column = np.nonzero(slab < limits)
        if left is right:
            row, column = row[column > row], column[column > row]
        if len(row):
            sides = [tuple(torch.from_numpy(side) for side in block.sides) for block in (left, right)]
            pair = torch.from_numpy(row + top), torch.from_numpy(column + lead)
            exact = _by_difference(sides[0], sides[1], *pair).numpy()
            negative = exact < -math.sqrt(np.finfo(exact.dtype).eps) / near * limits[row, column]
            if negative.any():
                raise _indefinite(f"it gives a squared distance of {float(exact[negative].min()):.3g}")
            slab[row, column] = np.maximum(exact, 0)
        if scale != 1.0:
            slab *= scale
        for k in range(len(slab)):
            number = left.start + top + k
            past = k + 1 if left is right else 0
            at = pair_number(number, right.start + lead + past, n)
            place = out[at : at + slab.shape[1] - past]
            place[:] = place + slab[k, past:] if add else slab[k, past:]


def distance_matrices(patterns: Tensor, normalize: Normalize) -> tuple[Tensor, Tensor, Tensor]:
    """Squared distances between the columns of many small batches, as square matrices.

    Near pairs are not computed again, and nothing is condensed: this is for many batches that are reduced to
    a number at once, such as the spheres of a searchlight.

    Parameters
    ----------
    patterns
        (batch, channels, n), which are overwritten.
    normalize
        As in `squared_distances`.

    Returns
    -------
    distances : Tensor, (batch, n, n)
        With zeros on the diagonal.
    means : Tensor, (batch,)
        Their means over pairs.
    sound : Tensor, (batch,)
        False where a distance is undefined, or the distances are so small or large that digits are lost: use
        `squared_distances` there.
    """
    n, limits = patterns.shape[-1], torch.finfo(patterns.dtype)
    over = {"centered length": -2, "none": -1}.get(normalize)
    common = patterns.new_zeros(1, 1, 1) if over is None else patterns.mean(over, keepdim=True)
    distances = patterns.sub_(common).mT @ patterns
    norms = distances.diagonal(dim1=-2, dim2=-1).clone()
    if normalize == "none":
        # the squares of distances neither vanish nor overflow
        low, high = 1e3 * limits.tiny**0.5, 1e-6 * limits.max**0.5
        sound = norms.isfinite()
        distances.mul_(-2).add_(norms[:, None]).add_(norms[..., None])
    else:
        # patterns that are nearly alike need distances by difference
        low, high = 4 * _NEAR[patterns.dtype], 5.0
        spoilt = 1e-4 if patterns.dtype == torch.float32 else 1e-8  # share of the mean that is left
        sound = (norms > 0) & (norms > spoilt * patterns.shape[1] * common[:, 0].square())
        inverse = norms.rsqrt()
        distances.mul_(-2 * inverse[:, None]).mul_(inverse[..., None]).add_(2)
    distances.diagonal(dim1=-2, dim2=-1).zero_()
    means = distances.sum((-2, -1)) / (n * n - n)
    return distances, means, sound.all(-1) & (means > low) & (means < high)


# precision matrices


def whiten(patterns: Tensor, precision: Tensor) -> Tensor:
    """Patterns (..., n, channels) less their mean over stimuli, times a factor of the precision.

    Euclidean distances of the result are Mahalanobis distances of the patterns; where there are more channels
    than the precision has rank, the result is as wide all the same.

    Raises
    ------
    NeurordlError
        The precision is not a finite, symmetric, positive semidefinite (channels, channels) matrix.
    """
    patterns = floating(patterns)
    if patterns.device.type != "cpu":
        return whiten_by(patterns, _factor_once(precision, patterns))
    return whiten_by(patterns, factor_of(precision.detach(), patterns.shape[-1]).to(patterns))


def _factor_once(precision: Tensor, patterns: Tensor) -> Tensor:
    """`factor_of` for patterns on a GPU, whose checks would stall each step: kept until torch changes it."""
    version = 0 if precision.is_inference() else precision._version
    state = version, patterns.shape[-1], patterns.device, patterns.dtype
    known = _FACTORS.get(precision)  # type: ignore[no-untyped-call]
    if known is None or known[0] != state:
        known = state, factor_of(precision.detach(), patterns.shape[-1]).to(patterns)
        _FACTORS[precision] = known
    factor: Tensor = known[1]
    return factor


def whiten_by(patterns: Tensor, factor: Tensor) -> Tensor:
    """Patterns (..., n, channels) less their mean over stimuli, times a factor; see `factor_of`."""
    mean = patterns.detach().mean(-2, keepdim=True)  # a large offset would cost digits in the product
    return exact_product(patterns - torch.where(mean.isfinite(), mean, 0), factor)


def exact_product(patterns: Tensor, factor: Tensor) -> Tensor:
    """Patterns (..., n, channels) times a constant matrix, in `full_precision` forward and backward."""
    with full_precision(patterns.device):
        return cast("Callable[[Tensor, Tensor], Tensor]", _Product.apply)(patterns, factor)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, patterns: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return patterns @ factor

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        with full_precision(gradient.device):
            return gradient @ factor.mT, None


def factor_of(precision: Tensor, channels: int) -> Tensor:
    """Return L with L Lᵀ = precision, in float64; `whiten` says what is refused."""
    exact = checked_precision(precision, channels)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(exact)
    if bool(failed):
        values, vectors = torch.linalg.eigh(exact)
        if bool(values[0] < -_rounding(precision)):
            raise _indefinite(f"its smallest eigenvalue is {float(values[0]):.3g}")
        factor = vectors * values.clamp_min(0).sqrt()
    return factor


def _indefinite(sign: str) -> NeurordlError:
    remedy = "give the inverse of a covariance, a shrunken one if need be"
    return NeurordlError(f"the precision is not positive semidefinite ({sign}); {remedy}")


def checked_precision(precision: Tensor, channels: int) -> Tensor:
    """Return a finite, symmetric precision in float64; whether it is positive semidefinite is not checked."""
    if tuple(precision.shape) != (channels, channels):
        raise NeurordlError(f"precision= is a {channels} x {channels} matrix, not {tuple(precision.shape)}")
    exact = precision.double()
    # Products with a random vector (Freivalds 1977), NaN if there is a NaN: it takes several times as long to
    # compare each number with its mirror image, which goes across the memory.
    random = torch.Generator().manual_seed(0)
    probe = torch.randn(channels, generator=random, dtype=exact.dtype).to(exact.device)
    product, mirrored = exact @ probe, probe @ exact
    largest = product.abs().max()
    if not bool(largest.isfinite() & ((product - mirrored).abs().max() <= 1e-12 * largest)):
        if not bool(exact.isfinite().all()):
            raise NeurordlError("the precision holds NaN or infinity; give a finite matrix")
        if bool((exact - exact.mT).abs().max() > _rounding(precision)):
            raise NeurordlError("the precision is not symmetric; give (P + P.T) / 2 if that is what is meant")
        exact = (exact + exact.mT) / 2
    return exact


def _rounding(precision: Tensor) -> float:
    dtype = precision.dtype if precision.is_floating_point() else torch.float64
    return math.sqrt(torch.finfo(dtype).eps) * float(precision.abs().max())
