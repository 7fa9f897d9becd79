"""Dissimilarities across runs, which are zero on average where patterns are equal."""

from __future__ import annotations

import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.kernels.distances import (
    condensed_index,
    exact_product,
    floating,
    full_precision,
    squared_distances,
)
from neurordl.measures.kernels.whitening import factor_of, whiten

__all__ = ["crossnobis", "poisson_cv", "poisson_rates"]


def crossnobis(patterns: Tensor, precision: Tensor | None = None, counts: Tensor | None = None) -> Tensor:
    """Cross-validated squared Mahalanobis distance divided by the number of channels.

    Leaves one run out: the mean over runs of (this run's difference) · (mean difference of the others). It is
    zero on average for equal patterns, so it can be negative. Equal to rsatoolbox's for balanced runs, and
    with ``counts`` to its ``calc_rdm_unbalanced``.
    Source: Walther et al. 2016, NeuroImage 137:188.

    Parameters
    ----------
    patterns
        (..., runs, n, channels), two runs or more.
    precision
        (channels, channels) as for `mahalanobis`; none is the identity.
    counts
        (runs, n), for runs that are not balanced: how many measurements each pattern is the mean of; what
        ``patterns`` hold where it is 0 is not looked at. Inner products of patterns are then means over all
        pairs of measurements from different runs, and unlike the balanced distance they see a pattern that
        a run adds to all stimuli: remove it first.

    Returns
    -------
    Tensor
        (..., n(n-1)/2); NaN where either pattern is missing (NaN) in any run; with counts where a stimulus
        has no two runs, or two stimuli have none that differ.

    Raises
    ------
    NeurordlError
        Fewer than two runs, or a precision that `mahalanobis` refuses.
    """
    patterns = floating(patterns)
    if patterns.ndim < 3 or patterns.shape[-3] < 2:
        raise NeurordlError(
            "crossnobis needs patterns (..., runs, stimuli, channels) with at least 2 runs, not shape "
            f"{tuple(patterns.shape)}; with a single run take mahalanobis or euclidean"
        )
    if counts is not None:
        return _unbalanced_crossnobis(patterns, precision, counts)
    if precision is not None:
        patterns = whiten(patterns, precision)
    runs, channels = patterns.shape[-3], patterns.shape[-1]
    # the sum over pairs of different runs is that over all pairs of runs less that of each run with itself
    together = squared_distances(patterns.sum(-3))
    alone = squared_distances(patterns).sum(-2)
    return (together - alone) / (runs * (runs - 1) * channels)


def _unbalanced_crossnobis(patterns: Tensor, precision: Tensor | None, counts: Tensor) -> Tensor:
    """From sums over measurements: all pairs of measurements less those within a run."""
    sums = torch.where(counts[..., None] > 0, patterns, 0) * counts[..., None]
    if precision is not None:
        sums = exact_product(sums, factor_of(precision.detach(), patterns.shape[-1]).to(sums))
    inner = _across_runs(sums, sums, counts) / patterns.shape[-1]
    return _from_inner(inner)


def _across_runs(left: Tensor, right: Tensor, counts: Tensor) -> Tensor:
    """Mean inner product over pairs of measurements from different runs, (..., n, n); sums come in."""
    with full_precision(left.device):
        total = left.sum(-3) @ right.sum(-3).mT - (left @ right.mT).sum(-3)
    return total / _pairs_across_runs(counts)


def _pairs_across_runs(counts: Tensor) -> Tensor:
    """How many pairs of measurements of two stimuli are from different runs, (n, n); NaN where none."""
    number = counts.sum(-2)[:, None] * counts.sum(-2)[None] - counts.mT @ counts
    return torch.where(number > 0, number, torch.nan)


def _from_inner(inner: Tensor) -> Tensor:
    """Condensed distances of a matrix of inner products, which need not be symmetric."""
    row, column = condensed_index(inner.shape[-1], inner.device)
    own = inner.diagonal(dim1=-2, dim2=-1)
    return own[..., row] + own[..., column] - inner[..., row, column] - inner[..., column, row]


def poisson_cv(
    patterns: Tensor, counts: Tensor | None = None, prior_lambda: float = 1.0, prior_weight: float = 0.1
) -> Tensor:
    """Cross-validated symmetrised KL divergence of Poisson rates divided by the number of channels.

    Rates of one run with log rates of another, over all pairs of different runs. rsatoolbox's ``calc_rdm``
    gives that of the last run only; its ``calc_rdm_unbalanced`` equals this where no run has repeats.

    Parameters
    ----------
    patterns
        (..., runs, n, channels), two runs or more; rates or counts, 0 or more.
    counts
        (runs, n) as for `crossnobis`.
    prior_lambda, prior_weight
        As for `poisson`.
    """
    patterns = floating(patterns)
    if patterns.ndim < 3 or patterns.shape[-3] < 2:
        raise NeurordlError(
            "poisson_cv needs patterns (..., runs, stimuli, channels) with at least 2 runs, not shape "
            f"{tuple(patterns.shape)}; with a single run take poisson"
        )
    if counts is None:
        counts = patterns.new_ones(patterns.shape[-3:-1])
    rates, logs = poisson_rates(torch.where(counts[..., None] > 0, patterns, 1), prior_lambda, prior_weight)
    weights = counts[..., None]
    inner = _across_runs(rates * weights, logs * weights, counts)
    # what a measurement has with itself; it cancels where runs are balanced
    own = (rates * logs).sum(-1) * counts
    others = counts.sum(-2) - counts
    shared = own.mT @ others
    inner = inner - (shared + shared.mT) / 2 / _pairs_across_runs(counts)
    return _from_inner(inner) / patterns.shape[-1]


def poisson_rates(
    patterns: Tensor, prior_lambda: float = 1.0, prior_weight: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Rates with the prior mixed in, and their logarithms; a pattern with a rate of 0 or less is NaN."""
    rates = (floating(patterns) + prior_lambda * prior_weight).div_(1 + prior_weight)
    if bool(rates.detach().min() > 0):
        return rates, rates.log()
    positive = (rates > 0).all(-1, keepdim=True)
    rates = torch.where(positive, rates, torch.nan)
    return rates, torch.where(positive, rates, 1.0).log().masked_fill(~positive, torch.nan)
