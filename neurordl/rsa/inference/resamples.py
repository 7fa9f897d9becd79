"""Resamples of stimuli and subjects: the similarities in each, and its noise ceilings.

As in rsatoolbox, a resample holds a stimulus as often as it was drawn, without the pairs of a stimulus with
its own copies, and its ceilings are means over the subjects in it, copies pooled but left out together.
Cosine, corr and their whitened kin take all resamples in a few matrix products (`kernels.products`); rank
measures rank each resample, compiled; where pairs are missing in some subjects only, resamples are built one
by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS
from neurordl.measures.condensed import n_stimuli
from neurordl.measures.kernels.products import GRAM_METHODS, cosines, grams
from neurordl.rsa.ceilings import bounds, defined_mean, pooled, pooling_weights, scaled_to_pool
from neurordl.rsa.similarity import RANKED, in_threads, missing_groups, ranked, similarity

__all__ = ["Resampled", "expanded", "resampled"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Resampled:
    """Similarities in resamples.

    Attributes
    ----------
    scores
        (resamples of the stimuli, models, subjects): of each subject, drawn or not.
    ceilings
        (sets, resamples, 2) lower and upper noise ceiling for each set of subjects; NaN where one subject
        alone was drawn (rsatoolbox says 1).
    """

    scores: Floats
    ceilings: Floats


def resampled(
    models: Floats,
    data: Floats,
    method: str,
    stimuli: Ints | None,
    sets: Ints,
    device: str | torch.device | None = None,
) -> Resampled:
    """Similarities and ceilings in each resample.

    Parameters
    ----------
    models, data
        Condensed RDMs (models, pairs), (subjects, pairs); NaN marks a missing pair.
    method
        One of ``METHODS``; those of complete RDMs do not go with resampled stimuli.
    stimuli
        (resamples, stimuli) how often each was drawn; None for all of them, once.
    sets
        (sets, resamples, subjects) how often each subject is in the ceilings. Ceilings are taken on the pairs
        that every model has.
    device
        For the matrix products; rank measures stay on the CPU.
    """
    if stimuli is not None and COMPARISONS[method].complete:
        raise NeurordlError(
            f"{method} needs complete RDMs, and a resample of the stimuli has pairs of a stimulus with "
            "itself, which are missing; resample subjects, or compare with cosine_cov"
        )
    everywhere = np.isfinite(models).all(axis=0)
    masked = np.where(everywhere, data, np.nan)
    alike = len(missing_groups(masked)) == 1
    if method in GRAM_METHODS and alike:
        return _by_products(models, data, method, stimuli, sets, device)
    if method in RANKED and len(missing_groups(data)) == 1:
        return _by_ranks(models, data, method, stimuli, sets)
    n = n_stimuli(data.shape[1])
    once = np.ones((1, n), dtype=np.int64) if stimuli is None else stimuli
    ceilings = np.full((*sets.shape[:2], 2), np.nan)
    scores = []
    for b, counts in enumerate(once):
        a, x, y = (expanded(rdms, counts) for rdms in (models, data, masked))
        scores.append(similarity(a, x, method))
        for which in range(sets.shape[1]) if stimuli is None else (b,):
            for k, drawn in enumerate(sets[:, which]):
                ceilings[k, which] = _plain_ceiling(y, drawn, method)
    return Resampled(np.stack(scores), ceilings)


def expanded(vectors: Floats, counts: Ints) -> Floats:
    """RDMs of a resample, copies and all; the pairs of a stimulus with its copies are missing."""
    if (counts == 1).all():
        return vectors
    n = len(counts)
    number = np.full((n, n), vectors.shape[1])
    i, j = np.triu_indices(n, 1)
    number[i, j] = number[j, i] = np.arange(len(i))
    drawn = np.repeat(np.arange(n), counts)
    i, j = np.triu_indices(len(drawn), 1)
    return np.column_stack([vectors, np.full(len(vectors), np.nan)])[:, number[drawn[i], drawn[j]]]


def _plain_ceiling(vectors: Floats, drawn: Ints, method: str) -> tuple[float, float]:
    there = np.flatnonzero(drawn)
    if len(there) < 2:
        return np.nan, np.nan
    scaled = scaled_to_pool(vectors[there], method)
    times = drawn[there]
    upper = similarity(pooled(np.repeat(scaled, times, axis=0), method), vectors[there], method)[0]
    lower = [
        similarity(
            pooled(np.repeat(scaled, np.where(np.arange(len(there)) == k, 0, times), axis=0), method),
            vectors[there[k], None],
            method,
        )[0, 0]
        for k in range(len(there))
    ]
    return defined_mean(np.array(lower)), defined_mean(upper)


def _by_products(
    models: Floats,
    data: Floats,
    method: str,
    stimuli: Ints | None,
    sets: Ints,
    device: str | torch.device | None,
) -> Resampled:
    a, b = (torch.as_tensor(x, dtype=torch.float64, device=device) for x in (models, data))
    counts = None if stimuli is None else torch.as_tensor(stimuli, dtype=torch.float64, device=device)
    size = 1 if counts is None else len(counts)
    scores = torch.full((size, len(a), len(b)), torch.nan, dtype=torch.float64, device=device)
    among = None
    kept_by_all = np.isfinite(models).all(axis=0) & np.isfinite(data).all(axis=0)
    for rows, absent in missing_groups(models):
        for columns, absent_here in missing_groups(data):
            kept = ~(absent | absent_here)
            whole = bool((kept == kept_by_all).all()) and len(columns) == len(data)
            measured = None if kept.all() else torch.as_tensor(kept, device=device)
            found = grams(a[rows], b[columns], method, counts, measured, among=whole)
            at = torch.tensor(rows, device=device)[:, None], torch.tensor(columns, device=device)
            scores[:, at[0], at[1]] = cosines(found)
            among = found if whole else among
    if among is None:
        among = grams(a[:0], b, method, counts, torch.as_tensor(kept_by_all, device=device), among=True)
    drawn = torch.as_tensor(sets, dtype=torch.float64, device=device)
    weights = drawn * pooling_weights(among.lengths)
    several = (drawn > 0).sum(-1) > 1
    found_bounds = bounds(among.data.expand(*sets.shape[:2], -1, -1), weights)
    means = [torch.where(drawn > 0, one, torch.nan).nanmean(-1) for one in found_bounds]
    ceilings = torch.where(several[..., None], torch.stack(means, -1), torch.nan)
    return Resampled(scores.cpu().numpy(), ceilings.cpu().numpy())


def _by_ranks(models: Floats, data: Floats, method: str, stimuli: Ints | None, sets: Ints) -> Resampled:
    """Of subjects that miss the same pairs; models that do are ranked together."""
    n = n_stimuli(data.shape[1])
    counts = np.ones((1, n), dtype=np.int64) if stimuli is None else stimuli
    scores = np.full((len(counts), len(models), len(data)), np.nan)
    ceilings = np.full((*sets.shape[:2], 2), np.nan)
    here = np.isfinite(data[0])
    kept_by_all = here & np.isfinite(models).all(axis=0)
    groups = [(rows, here & ~absent) for rows, absent in missing_groups(models)]
    if not any((kept == kept_by_all).all() for _, kept in groups):
        groups.append(([], kept_by_all))
    bounded = False  # ceilings are taken once, beside the models that have the pairs that all have
    for rows, kept in groups:
        out = np.empty((len(counts), len(rows), len(data)))
        wanted = not bounded and bool((kept == kept_by_all).all())
        bounded = bounded or wanted
        _rank_group(
            models[rows], data, method, counts, stimuli is None, kept, sets, out, ceilings if wanted else None
        )
        scores[:, rows] = out
    return Resampled(scores, ceilings)


def _rank_group(
    models: Floats,
    data: Floats,
    method: str,
    counts: Ints,
    once: bool,
    kept: npt.NDArray[np.bool_],
    sets: Ints,
    scores: Floats,
    ceilings: Floats | None,
) -> None:
    """Fill in the scores, and ceilings where they are wanted, of RDMs that all have the pairs kept."""
    from neurordl.measures.kernels import rank_resamples as rank_bootstrap

    (ranks_a, order_a), (ranks_b, order_b) = (ranked(np.where(kept, x, 0)) for x in (models, data))
    ranks, order = np.concatenate([ranks_a, ranks_b]), np.concatenate([order_a, order_b])
    split, code = len(models), RANKED.index(method)
    whole = rank_bootstrap.resample(ranks, order, counts[0], kept)
    if once:
        scores[0] = rank_bootstrap.scores(*whole, split, code)

    def work(part: slice) -> None:
        for b in range(sets.shape[1])[part]:
            found = whole
            if not once:
                found = rank_bootstrap.resample(ranks, order, counts[b], kept)
                scores[b] = rank_bootstrap.scores(*found, split, code)
            if ceilings is not None:
                rank_bootstrap.ceilings(*found, split, code, sets[:, b], ceilings[:, b])

    in_threads(work, sets.shape[1])
