"""The core of all dissimilarities: squared distances between the rows of a batch, with their gradient.

One matrix product of patterns centred over the stimuli; the pairs that cancellation would spoil are
recomputed by difference; the gradient has a closed form, one product more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.condensed import condensed_index, square
from neurordl.measures.kernels.blocks import add_distances
from neurordl.measures.kernels.normalise import NEAR, Normalise, lengths_of
from neurordl.measures.kernels.wide import WIDE, wide_distances

__all__ = [
    "exact_product",
    "floating",
    "full_precision",
    "squared_distances",
]

# pairs, and elements, differenced at once: few operations, and memory that stays small
_PAIRS, _ELEMENTS = 256, 1 << 20
# stimuli from which on an RDM without gradient is worth a product of its own
_MANY = 128


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Matrix products in the precision of their inputs: no autocast, no TF32, no bfloat16."""
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
    """Patterns in float32 or float64; what is no (..., stimuli, channels) tensor of floats is refused."""
    if not isinstance(patterns, Tensor) or not patterns.is_floating_point():
        kind = patterns.dtype if isinstance(patterns, Tensor) else type(patterns).__name__
        raise NeurordlError(
            f"patterns are a tensor of floating-point numbers, not {kind}; convert them first"
        )
    if patterns.ndim < 2 or not patterns.shape[-1]:
        raise NeurordlError(f"patterns are (..., stimuli, channels), not of shape {tuple(patterns.shape)}")
    return patterns if patterns.dtype in NEAR else patterns.float()


def squared_distances(patterns: Tensor, normalise: Normalise = "none") -> Tensor:
    """Squared Euclidean distances between the rows of each (n, channels), condensed.

    Parameters
    ----------
    patterns
        (..., n, channels); half precision is computed in float32.
    normalise
        Divide each row by its length, or centre it over channels and then divide it by its length.

    Returns
    -------
    Tensor
        (..., n(n-1)/2), never negative; NaN, with a gradient of zero, where a row holds NaN or infinity or
        has no length (a constant one, when centred: its spread is not above the rounding of its mean).
    """
    patterns = floating(patterns)
    *lead, n, channels = patterns.shape
    if n < 2:
        return patterns.sum((-2, -1))[..., None][..., :0]
    if not (patterns.requires_grad and torch.is_grad_enabled()):
        if n >= _MANY and patterns.device.type == "cpu":
            return _without_gradient(patterns.detach(), normalise)
        if n < _MANY and channels >= WIDE and not lead:
            return wide_distances(patterns.detach(), normalise).to(patterns.dtype)
    with full_precision(patterns.device):
        apply = cast("Callable[[Tensor, Normalise], Tensor]", _SquaredDistances.apply)
        condensed = apply(patterns.reshape(math.prod(lead), n, channels), normalise)
    return condensed.reshape(*lead, condensed.shape[-1])


def _without_gradient(patterns: Tensor, normalise: Normalise) -> Tensor:
    """The same, by symmetric products, with no more memory than a block beside the result."""
    *lead, n, channels = patterns.shape
    batch = patterns.reshape(math.prod(lead), n, channels)
    found = patterns.new_empty(len(batch), n * (n - 1) // 2)
    for one, out in zip(batch, found.numpy(), strict=True):

        def rows(start: int, stop: int, one: Tensor = one) -> tuple[Tensor, ...]:
            return (one[start:stop],)

        add_distances(rows, n, channels, normalise, out, there=True)
    return found.reshape(*lead, found.shape[-1])


def exact_product(patterns: Tensor, factor: Tensor) -> Tensor:
    """Patterns (..., n, channels) times a constant matrix, `full_precision` forward and backward."""
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


class _SquaredDistances(torch.autograd.Function):
    """(batch, n, channels) -> (batch, pairs)."""

    @staticmethod
    def forward(ctx: Any, patterns: Tensor, normalise: Normalise) -> Tensor:
        rows, mean, inverse, undefined = _normalised(patterns, normalise)
        n = rows.shape[-2]
        row, column = condensed_index(n, rows.device)
        gram = rows @ rows.mT
        norms = gram.diagonal(dim1=-2, dim2=-1)
        # index_select: indexing in brackets runs on several threads, whose start costs more than the work.
        norms = norms.index_select(1, row) + norms.index_select(1, column)
        distances = norms - 2 * gram.flatten(-2).index_select(1, row * n + column)
        near = distances < NEAR[rows.dtype] * norms
        if undefined is not None:
            pairs = undefined[:, row] | undefined[:, column]
            near &= ~pairs
            distances.masked_fill_(pairs, math.nan)
        batch, pair = near.nonzero(as_tuple=True)
        left, right = batch * n + row[pair], batch * n + column[pair]
        if len(pair):
            distances[batch, pair] = _differenced(rows.flatten(0, 1), left, right)
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
            scales = scale * norms.flatten()[left], scale * norms.flatten()[right]
            _add_differences(result.flatten(0, 1), rows.flatten(0, 1), left, right, scales)
        return result, None


def _normalised(patterns: Tensor, kind: Normalise) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Rows normalised, less their mean over stimuli; that mean; 1 / lengths; the undefined rows, if any.

    Distances do not see the common mean, and it may be rough: it only has to make the rows small.
    """
    n = patterns.shape[-2]
    if kind == "none":
        weights = patterns.new_full((*patterns.shape[:-2], 1, n), 1 / n)
        mean = weights @ patterns
        if bool(mean.isfinite().all()):
            return patterns - mean, mean, None, None
        undefined = ~patterns.isfinite().all(-1)
        rows = patterns.masked_fill(undefined[..., None], 0)
        mean = weights @ rows
        return rows - mean, mean, None, undefined
    rows, inverse, bad = lengths_of(patterns, kind)
    mean = (inverse / n)[..., None, :] @ rows
    in_place = rows if rows is not patterns else None
    rows = torch.addcmul(-mean, rows, inverse[..., None], out=in_place)
    return rows, mean, inverse, bad


def _blocks(pairs: int, channels: int) -> Iterator[tuple[slice, slice]]:
    width = _ELEMENTS // min(pairs, _PAIRS)
    for start in range(0, channels, width):
        for first in range(0, pairs, _PAIRS):
            yield slice(first, first + _PAIRS), slice(start, start + width)


def _difference(rows: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return rows.index_select(0, left).sub_(rows.index_select(0, right))


def _differenced(rows: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Squared distances between the rows ``left`` and ``right`` of (rows, channels), by difference."""
    result = rows.new_zeros(len(left))
    for pairs, channels in _blocks(len(left), rows.shape[-1]):
        difference = _difference(rows[:, channels], left[pairs], right[pairs])
        result[pairs] += torch.linalg.vector_norm(difference, dim=-1).square_()
    return result


def _add_differences(
    to: Tensor, rows: Tensor, left: Tensor, right: Tensor, scales: tuple[Tensor, Tensor]
) -> None:
    """Add (left - right) times the first scale at ``left``, and minus it times the second at ``right``."""
    for pairs, channels in _blocks(len(left), rows.shape[-1]):
        difference = _difference(rows[:, channels], left[pairs], right[pairs])
        to[:, channels].index_add_(0, left[pairs], difference * scales[0][pairs, None])
        to[:, channels].index_add_(0, right[pairs], difference.mul_(-scales[1][pairs, None]))
