"""Similarities of stacks of RDMs, their noise ceilings and their resamples: by inner products and by ranks.

Cosine, corr, cosine_cov and corr_cov are an inner product divided by its norms. A resample draws stimulus s
``c_s`` times, so pair (s, t) occurs ``c_s c_t`` times (pairs of a stimulus with itself are left out, as in
rsatoolbox): the inner products of all resamples are one matrix product. The whitened inner product deletes
from the covariance V what is left out; with ``r = B'a`` (the sums of each stimulus's dissimilarities) and
``K = 2 I + B'B``, B the incidence of pairs and stimuli, ``2 a'V⁻¹b = a'b - r_a' K⁻¹ r_b``. Copies of a
stimulus have one solution, so that K is diagonal plus rank one where no pair is missing, and V (pairs x
pairs) is never built.

For comparisons of ranks each RDM is sorted once, for its similarities, ceilings and resamples.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurordl.arrays import Bools, Floats, Ints, nan_mean
from neurordl.measures.condensed import missing_groups, n_stimuli, square, stimulus_sums

_ROUNDING = 1e-13  # of a squared length, relative to the numbers that it is the difference of
_CONSTANT = 1e-12  # of the mean
_SINGULAR = 1e-11  # of a squared length of 1: what is left of an RDM that others add up to
_BYTES, _CACHE = 64 << 20, 2 << 20
_COUPLES = 10_000_000_000  # comparisons of two pairs in a subject, which take some seconds


class Resampled(NamedTuple):
    """Similarities and noise ceilings in resamples of stimuli and subjects."""

    scores: Floats
    """(resamples, models, subjects) similarities with each subject, drawn or not."""
    ceilings: Floats
    """(sets, resamples, 2) lower and upper noise ceiling of each set of subjects; NaN where a single subject
    was drawn (rsatoolbox says 1)."""


_WORTH_THREADS = 1 << 15  # values to rank: below, one thread is faster than starting several


class Drawn(NamedTuple):
    """How often each stimulus and each subject is in each resample."""

    counts: Ints | None
    """(resamples, stimuli); None for each of them once."""
    sets: Ints
    """(sets, resamples, subjects) of the ceilings."""
    device: str | torch.device | None = None
    """Device of matrix products."""


Sampler = Callable[[Ints | None, Ints, Floats, Floats], None]
"""Function of how often each stimulus was drawn (None: each once) and of sets of subjects, (sets, subjects),
that fills in scores (models, subjects) and bounds (sets, 2, subjects), which are NaN before."""


class Kernel(ABC):
    """A fast way to compute a comparison for stacks of RDMs, their noise ceilings and their resamples.

    Only `similarity` has to be written. The other methods may return None: the caller then takes the general
    way, which calls `similarity` once for each ceiling or resample.
    """

    propagates_missing: bool = False
    """Whether `similarity` without ``measured`` is NaN for each RDM that misses a pair."""

    @abstractmethod
    def similarity(self, models: Tensor, data: Tensor, measured: Tensor | None = None) -> Tensor:
        """Similarities (models, data) of RDMs (models, pairs) and (data, pairs) that miss the same pairs.

        Parameters
        ----------
        models, data
            Condensed RDMs in float64.
        measured
            (pairs,) which pairs count; the values of the others mean nothing. By default all of them.
        """

    def bounds(self, rdms: Tensor, measured: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Lower and upper noise ceiling of each subject, from RDMs (subjects, pairs) as in `similarity`."""
        return None

    def fitted_upper(self, rdms: Floats) -> Floats | None:
        """Upper noise ceiling of each subject where subjects miss different pairs (NaN); None without one."""
        return None

    def permuted_bounds(self, rdms: Tensor, orders: Ints) -> Tensor | None:
        """Lower noise ceiling of each subject, (permutations, subjects), of permuted stimuli.

        Parameters
        ----------
        rdms
            Complete RDMs (subjects, pairs).
        orders
            (permutations, subjects, stimuli): the stimulus that takes the place of each.
        """
        return None

    def permutable(self, models: Tensor, data: Tensor) -> tuple[Tensor, Tensor, Kernel]:
        """RDMs prepared once for many permutations of stimuli, and the kernel that compares them then."""
        return models, data, self

    def partial(self, covariates: Floats) -> Partial | None:
        """The kernel that controls for covariates, (covariates, pairs); None where that is not defined."""
        return None

    def resample(self, models: Floats, data: Floats, shared: Bools, drawn: Drawn) -> Resampled | None:
        """Similarities and ceilings in many resamples.

        None where the kernel has no `resample_measured`, or no `sampler` and subjects miss different ones of
        the shared pairs.

        Parameters
        ----------
        models, data
            Condensed RDMs (models, pairs) and (subjects, pairs); NaN marks a missing pair.
        shared
            (pairs,) the pairs that ceilings are taken on.
        drawn
            The resamples.
        """
        if len(missing_groups(np.where(shared, data, np.nan))) > 1:
            sampler = self.sampler(models, data, shared)
            if sampler is None:
                return None
            return _pooled(drawn, *_sampled(sampler, len(models), len(data), drawn))
        models_of, subjects_of = missing_groups(models), missing_groups(data)
        size = 1 if drawn.counts is None else len(drawn.counts)
        scores = np.full((size, len(models), len(data)), np.nan)
        common = shared & np.isfinite(data).all(axis=0)
        bounds, no_sets = None, drawn._replace(sets=drawn.sets[:0])
        for (rows, absent), (columns, absent_in_data) in itertools.product(models_of, subjects_of):
            measured = ~(absent | absent_in_data)
            whole = bounds is None and len(subjects_of) == 1 and bool((measured == common).all())
            part = self.resample_measured(models[rows], data[columns], measured, drawn if whole else no_sets)
            if part is None:
                return None
            scores[:, np.array(rows)[:, None], columns] = part[0]
            bounds = part[1] if whole else bounds
        if bounds is None:
            part = self.resample_measured(models[:0], data, common, drawn)
            if part is None:
                return None
            bounds = part[1]
        return _pooled(drawn, scores, bounds)

    def sampler(self, models: Floats, data: Floats, shared: Bools) -> Sampler | None:
        """What fills in a resample where RDMs miss different pairs; None without a fast way."""
        return None

    def resample_measured(
        self, models: Floats, data: Floats, measured: Bools, drawn: Drawn
    ) -> tuple[Floats, Floats] | None:
        """Scores, and each subject's bounds in the sets, of RDMs that all have the measured pairs.

        Parameters
        ----------
        models, data
            As in `resample`.
        measured
            (pairs,) which pairs count; the values of the others mean nothing.
        drawn
            The resamples.

        Returns
        -------
        scores, bounds
            (resamples, models, subjects), and (sets, resamples, 2, subjects), NaN for a subject who was not
            drawn.
        """
        return None


def _pooled(drawn: Drawn, scores: Floats, bounds: Floats) -> Resampled:
    """Ceilings as means over the subjects."""
    several = (drawn.sets > 0).sum(axis=-1) > 1
    return Resampled(scores, np.where(several[..., None], nan_mean(bounds, -1), np.nan))


def _sampled(sampler: Sampler, n_models: int, n_data: int, drawn: Drawn) -> tuple[Floats, Floats]:
    """Scores, and each subject's bounds in the sets, of all resamples: see `Kernel.resample_measured`."""
    size = 1 if drawn.counts is None else len(drawn.counts)
    scores = np.full((size, n_models, n_data), np.nan)
    sets = np.ascontiguousarray(drawn.sets.swapaxes(0, 1))
    bounds = np.full((*sets.shape[:2], 2, n_data), np.nan)
    if drawn.counts is None:  # one sample of the stimuli for all sets
        every_set, every_bound = sets.reshape(-1, n_data), bounds.reshape(-1, 2, n_data)
        in_threads(lambda part: sampler(None, every_set[part], scores[0], every_bound[part]), len(every_set))
        return scores, bounds.swapaxes(0, 1)
    counts = drawn.counts

    def work(part: slice) -> None:
        for b in range(size)[part]:
            sampler(counts[b], sets[b], scores[b], bounds[b])

    in_threads(work, size)
    return scores, bounds.swapaxes(0, 1)


# inner products


@dataclass(frozen=True, eq=False)
class Grams:
    """Inner products of RDMs, with leading dimensions for resamples; each RDM may have a unit of its own.

    Attributes
    ----------
    cross
        (…, models, data) models with data.
    models
        (…, models) each model with itself.
    data
        (…, data, data) all data with all, or (…, data) each with itself if that was all that was asked for.
    lengths
        (…, data) plain length of each data RDM, centered for corr: rsatoolbox pools RDMs divided by it.
    """

    cross: Tensor
    models: Tensor
    data: Tensor
    lengths: Tensor


def cosines(grams: Grams) -> Tensor:
    """Similarities (…, models, data); NaN where an RDM has no length."""
    among = grams.data.ndim > grams.models.ndim
    squares = grams.data.diagonal(dim1=-2, dim2=-1) if among else grams.data
    return grams.cross / _length(grams.models)[..., :, None] / _length(squares)[..., None, :]


def _length(squares: Tensor) -> Tensor:
    return torch.where(squares > 0, squares, torch.nan).sqrt()


def bounds(gram: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper noise ceiling of each subject from inner products (…, subjects, subjects).

    Parameters
    ----------
    gram
        Inner products of the subjects' RDMs, whose cosine is the similarity.
    weights
        (…, subjects) weight of each RDM in the pooled RDM: how often it was drawn divided by its length.

    Returns
    -------
    lower, upper
        (…, subjects); the lower one leaves out every copy of the subject.
    """
    squares = gram.diagonal(dim1=-2, dim2=-1)
    with_all = (gram @ weights[..., None])[..., 0]
    pooled_square = (weights * with_all).sum(-1, keepdim=True)
    with_others = with_all - weights * squares
    others_square = pooled_square - 2 * weights * with_all + weights.square() * squares
    squares = torch.where(squares > 0, squares, torch.nan)

    def cosine(product: Tensor, length: Tensor) -> Tensor:
        defined = length > _ROUNDING * pooled_square.abs()
        return product / (squares * torch.where(defined, length, torch.nan)).sqrt()

    return cosine(with_others, others_square), cosine(with_all, pooled_square)


def pooling_weights(lengths: Tensor) -> Tensor:
    """One over each length; an RDM without a length gets no weight."""
    return torch.where(lengths > 0, 1 / torch.where(lengths > 0, lengths, 1), 0)


@dataclass(frozen=True)
class InnerProducts(Kernel):
    """Cosine of RDMs, of RDMs less their mean (Pearson correlation), or of both under a whitening.

    Attributes
    ----------
    centered
        Subtract each RDM's mean first.
    whitened
        Take the inner product under the inverse covariance of distances between independent patterns.
    """

    centered: bool
    whitened: bool = False
    propagates_missing = True

    def similarity(self, models: Tensor, data: Tensor, measured: Tensor | None = None) -> Tensor:
        """See `Kernel.similarity`."""
        return cosines(self.grams(models, data, measured=measured))

    def bounds(self, rdms: Tensor, measured: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Kernel.bounds`."""
        grams = self.grams(rdms[:0], rdms, measured=measured, among=True)
        return bounds(grams.data, pooling_weights(grams.lengths))

    def permuted_bounds(self, rdms: Tensor, orders: Ints) -> Tensor:
        """See `Kernel.permuted_bounds`."""
        from neurordl.measures.kernels.compiled_ranks import permuted

        scaled = rdms / rdms.abs().amax(-1, keepdim=True).clamp(min=1e-300)
        grams = self.grams(scaled[:0], scaled, among=True)
        weights = pooling_weights(grams.lengths)
        centered = scaled - scaled.mean(-1, keepdim=True) if self.centered else scaled
        scaled = centered * weights[:, None]
        squares_of, parts = square(scaled).numpy(), []
        step = min(len(orders), max(1, _CACHE // (8 * rdms.numel())))
        moved = rdms.new_empty(step, *rdms.shape)
        for start in range(0, len(orders), step):
            part = orders[start : start + step].astype(np.uint64)
            permuted(squares_of, part, moved.numpy())
            parts.append(moved[: len(part)] @ moved[: len(part)].mT)
        products = torch.cat(parts)
        squares = grams.data.diagonal() * weights.square()
        if self.whitened:
            sums = stimulus_sums(scaled)[torch.arange(len(rdms))[:, None], torch.as_tensor(orders)]
            products = products - sums @ solve_whitening(sums).mT
        products.diagonal(dim1=-2, dim2=-1)[:] = squares
        return bounds(products, (weights > 0).to(products))[0]

    def resample_measured(
        self, models: Floats, data: Floats, measured: Bools, drawn: Drawn
    ) -> tuple[Floats, Floats]:
        """See `Kernel.resample_measured`."""
        tensor = partial(torch.as_tensor, dtype=torch.float64, device=drawn.device)
        mask = None if measured.all() else torch.as_tensor(measured, device=drawn.device)
        counts = None if drawn.counts is None else tensor(drawn.counts)
        grams = self.grams(tensor(models), tensor(data), counts, mask, among=len(drawn.sets) > 0)
        scores = cosines(grams).cpu().numpy()
        sets = tensor(drawn.sets)
        if not len(sets):
            return scores, np.empty((*sets.shape[:2], 2, len(data)))
        each = bounds(grams.data.expand(*sets.shape[:2], -1, -1), sets * pooling_weights(grams.lengths))
        return scores, torch.where(sets[..., None, :] > 0, torch.stack(each, -2), torch.nan).cpu().numpy()

    def partial(self, covariates: Floats) -> Partial | None:
        """See `Kernel.partial`: a partial correlation of values."""
        return Partial(covariates, ranked=False) if self.centered and not self.whitened else None

    def sampler(self, models: Floats, data: Floats, shared: Bools) -> Sampler:
        """See `Kernel.sampler`; it runs on the CPU."""
        from neurordl.measures.kernels.compiled_missing import inner_sample

        values = np.concatenate([models, data])
        values[~np.isfinite(values)] = np.nan
        largest = np.nan_to_num(np.abs(values)).max(axis=1, keepdims=True)
        values /= np.where(largest > 0, largest, 1)
        if self.centered:
            values -= nan_mean(values, 1)[:, None]
            values[np.abs(values) <= _CONSTANT] = 0
        alike, layout, once = shared.astype(np.float64), (len(models), self.centered), _once(data)

        def sampler(counts: Ints | None, sets: Ints, scores: Floats, bounds: Floats) -> None:
            counts = once if counts is None else counts
            drawn = counts[counts > 0].astype(np.float64) if self.whitened else None
            inner_sample(values, alike, counts, drawn, layout, sets, scores, bounds)

        return sampler

    def grams(
        self,
        models: Tensor,
        data: Tensor,
        counts: Tensor | None = None,
        measured: Tensor | None = None,
        *,
        among: bool = False,
    ) -> Grams:
        """Inner products of RDMs (models, pairs) with RDMs (data, pairs).

        Parameters
        ----------
        models, data
            Condensed RDMs in float64. An RDM that misses pairs has the length NaN where ``measured`` does not
            name these.
        counts
            (resamples, stimuli) how often each stimulus was drawn; by default once, without that dimension.
        measured
            (pairs,) which pairs count in all of these RDMs; the values of the others mean nothing.
        among
            Also compute the inner products of data with data, for noise ceilings.
        """
        split = len(models)
        if counts is None and measured is None:
            grams = self._complete(models, data, among)
            squares = torch.cat([grams.models, grams.lengths])
            usual = ((squares > 1e-100) & (squares < 1e100)) | squares.isnan()
            if bool(usual.all()):
                return grams
            models, data = (x / x.abs().amax(-1, keepdim=True).clamp(min=1e-300) for x in (models, data))
            return self._complete(models, data, among)  # squares that overflowed or vanished
        stack = self._prepared(torch.cat([models, data]), measured)
        if counts is None:
            return self._complete(stack[:split], stack[split:], among, measured)
        if self.centered:
            ones = torch.ones_like(stack[:1]) if measured is None else measured.to(stack)[None]
            stack = torch.cat([stack, ones])
        step = max(1, min(1024, _BYTES // (8 * len(stack) * counts.shape[1])))
        parts = [self._resampled(stack, split, part, measured, among) for part in torch.split(counts, step)]
        return Grams(*(torch.cat([getattr(part, name) for part in parts]) for name in Grams.__annotations__))

    def _complete(self, models: Tensor, data: Tensor, among: bool, measured: Tensor | None = None) -> Grams:
        """`grams` of RDMs that are complete, or prepared, some pairs at a time without a copy of them."""
        sides, split = (models, data), len(models)
        centered = self.centered and measured is None
        means = [x.mean(-1, keepdim=True) if centered else x.new_zeros(len(x), 1) for x in sides]
        cross = data.new_zeros(split, len(data))
        full = data.new_zeros(len(data), len(data))
        squares = data.new_zeros(split + len(data))
        step = max(1024, _CACHE // (8 * len(squares)))
        for start in range(0, data.shape[1], step):
            a, b = (x[:, start : start + step] for x in sides)
            if centered:
                a, b = a - means[0], b - means[1]
            cross.addmm_(a, b.T)
            squares += torch.cat([torch.linalg.vector_norm(x, dim=-1).square() for x in (a, b)])
            if among:
                full.addmm_(b, b.T)
        mean = torch.cat(means)
        flat = squares <= (_CONSTANT * mean[:, 0]).square() * data.shape[1]  # only rounding remains
        squares = torch.where(flat, 0, squares)  # NaN stays
        lengths = squares[split:].sqrt()
        if self.whitened:
            n = n_stimuli(data.shape[1])
            sums = torch.cat([stimulus_sums(x) for x in sides]) - (n - 1) * mean
            solved = solve_whitening(sums, measured)
            cross -= sums[:split] @ solved[split:].T
            unusual = flat | squares.isinf()  # infinite: overflowed
            squares = torch.where(unusual, squares, squares - (sums * solved).sum(-1))
            full -= sums[split:] @ solved[split:].T
        return Grams(cross, squares[:split], full if among else squares[split:], lengths)

    def _prepared(self, stack: Tensor, measured: Tensor | None) -> Tensor:
        """RDMs with a largest entry of 1, zero where missing, minus their mean; similarities stay alike."""
        if measured is not None:
            stack = torch.where(measured, stack, 0)
        low, high = stack.aminmax(dim=-1, keepdim=True)
        largest = torch.maximum(low.abs(), high.abs())
        stack = stack / torch.where(largest > 0, largest, 1)
        if self.centered and measured is None:
            stack = stack.sub_(stack.mean(-1, keepdim=True))
        elif self.centered and measured is not None:
            mean = stack.sum(-1, keepdim=True) / measured.sum()
            stack = torch.where(measured, stack.sub_(mean), 0)
        return stack

    def _resampled(
        self, stack: Tensor, split: int, counts: Tensor, measured: Tensor | None, among: bool
    ) -> Grams:
        """`grams` of some resamples; the last row of a centered stack is ones."""
        n_rows, device = len(stack) - self.centered, stack.device
        n_data = n_rows - split
        index = partial(torch.arange, device=device)
        models, data = index(split), index(split, n_rows)
        upper = torch.triu_indices(n_data, n_data, device=device) + split if among else data.expand(2, -1)
        rows = index(n_rows + 1 if self.centered else 0)
        i = torch.cat([models.repeat_interleave(n_data), models, upper[0], rows])
        j = torch.cat([data.repeat(split), models, upper[1], torch.full_like(rows, n_rows)])
        sizes = [split * n_data, split, upper.shape[1]]
        couples = sum(sizes)
        plain = _products(stack, i, j, counts)
        inner = plain
        if self.whitened:
            sums, solved = _sums(stack, counts, measured)
            a, b = sums[:, :split], solved[:, split:n_rows]
            products = sums[:, split:n_rows] @ b.mT
            parts = [(a @ b.mT).flatten(1), (a * solved[:, :split]).sum(-1)]
            parts.append(products[:, upper[0] - split, upper[1] - split])
            if self.centered:
                parts.append((sums @ solved[:, -1, :, None])[..., 0])
            inner = plain - torch.cat(parts, dim=1).T
        k, m = upper - split
        lengths = plain[couples - sizes[2] : couples][k == m]
        if self.centered:  # subtract the weighted mean of each, whatever the inner product
            mean, total = plain[couples:] / plain[-1], plain[-1]
            with_ones, ones = inner[couples:], inner[-1]
            i, j = i[:couples], j[:couples]
            a, b = mean[i], mean[j]
            shift = (a * with_ones[j]).addcmul_(b, with_ones[i]).addcmul_(a * b, ones, value=-1)
            inner = inner[:couples]
            difference = inner - shift
            certain = difference.abs() > _ROUNDING * inner.abs().add_(shift.abs_())
            inner = torch.where(certain, difference, 0)
            lengths = lengths - mean[data].square() * total
        cross, squares, products = torch.split(inner.T.contiguous(), sizes, dim=1)
        if among:
            full = torch.empty(len(counts), n_data, n_data, dtype=stack.dtype, device=device)
            full[:, k, m] = full[:, m, k] = products
            products = full
        return Grams(
            cross.reshape(len(counts), split, n_data), squares, products, lengths.clamp(min=0).sqrt().T
        )


def solve_whitening(sums: Tensor, measured: Tensor | None = None) -> Tensor:
    """``K⁻¹ r`` of sums r (…, rdms, stimuli), on the measured pairs (…, pairs); by default on all."""
    if measured is None:  # K = n I + 11'
        n = sums.shape[-1]
        return (sums - sums.sum(-1, keepdim=True) / (2 * n)) / n
    adjacent = square(measured.to(sums))
    # K is positive definite; a check of it would stall a GPU
    factor, _ = torch.linalg.cholesky_ex(adjacent + torch.diag_embed(2 + adjacent.sum(-1)))
    return torch.cholesky_solve(sums.mT, factor).mT


def _products(stack: Tensor, i: Tensor, j: Tensor, counts: Tensor) -> Tensor:
    """Sums over pairs of ``stack[i] stack[j]``, each pair as often as it was drawn: (len(i), resamples)."""
    n = counts.shape[1]
    by_stimulus = counts.T.contiguous()
    products = torch.zeros(len(i), len(counts), dtype=stack.dtype, device=stack.device)
    step = max(n - 1, _CACHE // (8 * (len(i) + len(counts))))
    weights = by_stimulus.new_empty(step, len(counts))
    start = filled = 0
    for s in range(n - 1):  # the pairs of a stimulus with those after it are neighbors
        more = n - 1 - s
        torch.mul(by_stimulus[s], by_stimulus[s + 1 :], out=weights[filled : filled + more])
        filled += more
        if filled + more - 1 > step or more == 1:
            part = stack[:, start : start + filled]
            products.addmm_(part[i] * part[j], weights[:filled])
            start, filled = start + filled, 0
    return products


def _sums(stack: Tensor, counts: Tensor, measured: Tensor | None) -> tuple[Tensor, Tensor]:
    """``c r`` and ``K⁻¹ r`` of each RDM: (…, rdms, stimuli), r the sum over a stimulus's drawn partners."""
    step = max(1, _BYTES // (16 * stack.shape[1] + 1))
    sums = torch.cat([counts @ square(part) for part in torch.split(stack, step)]).transpose(0, 1)
    counted = counts[:, None]
    if measured is None:
        diagonal = counts.sum(-1, keepdim=True) + 2 - 2 * counts
        if bool((diagonal != 0).all()):
            share = counts / diagonal
            total = (share[:, None] * sums).sum(-1) / (1 + share.sum(-1, keepdim=True))
            return counted * sums, (sums - total[..., None]) / diagonal[:, None]
        adjacent = 1 - torch.eye(counts.shape[1], dtype=stack.dtype, device=stack.device)
    else:
        adjacent = square(measured.to(stack))
    matrix = adjacent * counted + torch.diag_embed(2 + counts @ adjacent)
    return counted * sums, torch.linalg.solve(matrix, sums.mT).mT


# ranks


def mean_ranks(vectors: Floats) -> Floats:
    """Ranks from 1 of each row (rdms, pairs); ties share their mean."""
    from neurordl.measures.kernels import compiled_ranks  # numba takes a second to import

    vectors = np.ascontiguousarray(vectors)
    out = np.empty_like(vectors)
    in_threads(lambda rows: compiled_ranks.mean_ranks(vectors[rows], out[rows]), len(vectors), vectors.size)
    return out


def dense_ranks(vectors: Floats) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Ranks from 0 of each row (ties share a rank and no rank is skipped), and the order that sorts it."""
    from neurordl.measures.kernels import compiled_ranks

    vectors = np.ascontiguousarray(vectors)
    ranks, order = (np.empty(vectors.shape, dtype=np.int32) for _ in range(2))

    def work(rows: slice) -> None:
        compiled_ranks.dense_ranks(vectors[rows], ranks[rows], order[rows])

    in_threads(work, len(vectors), vectors.size)
    return ranks, order


@dataclass(frozen=True)
class Ranks(Kernel):
    """Spearman's rho, its expected value when ties are broken at random (rho-a), and Kendall's tau.

    Attributes
    ----------
    products
        Products of ranks, as for rho; otherwise concordant pairs of pairs, as for tau.
    normalized
        Divide by what the ties of each RDM leave possible (spearman, tau-b); a constant RDM is undefined
        then. Otherwise it has a similarity of 0 (rho-a, tau-a).
    """

    products: bool
    normalized: bool

    def similarity(self, models: Tensor, data: Tensor, measured: Tensor | None = None) -> Tensor:
        """See `Kernel.similarity`."""
        a, b = (_on_cpu(rdms, measured) for rdms in (models, data))
        scores = self._of_products(a, b) if self.products else self._of_concordance(a, b)
        return torch.as_tensor(scores, device=models.device)

    def _of_products(self, models: Floats, data: Floats) -> Floats:
        left, right = (torch.as_tensor(mean_ranks(rdms)) for rdms in (models, data))
        if self.normalized:
            return np.asarray(InnerProducts(centered=True).similarity(left, right))
        n_pairs = models.shape[1]
        for ranks in (left, right):
            ranks -= (n_pairs + 1) / 2
        return np.asarray(left @ right.T * 12 / (n_pairs**3 - n_pairs))

    def _of_concordance(self, models: Floats, data: Floats) -> Floats:
        from neurordl.measures.kernels.compiled_ranks import tau

        (ranks_a, _), (ranks_b, order_b) = (dense_ranks(rdms) for rdms in (models, data))
        scores = np.empty((len(models), len(data)))

        def work(rows: slice) -> None:
            for row in range(len(models))[rows]:
                for column in range(len(data)):
                    pair = ranks_a[row], ranks_b[column], order_b[column]
                    scores[row, column] = tau(*pair, None, self.normalized)

        in_threads(work, len(models))
        return scores

    def bounds(self, rdms: Tensor, measured: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Kernel.bounds`."""
        from neurordl.measures.kernels import compiled_ranks

        vectors = _on_cpu(rdms, measured)
        dense = order = np.empty((len(vectors), 0), dtype=np.int32)
        if not self.products:
            dense, order = dense_ranks(vectors)
        means = mean_ranks(vectors) - (vectors.shape[1] + 1) / 2
        once, everyone = np.ones(vectors.shape[1], dtype=np.int32), np.ones((1, len(vectors)), dtype=np.int64)
        out = np.full((1, 2, len(vectors)), np.nan)
        layout = 0, self.products, self.normalized
        compiled_ranks.bounds(once, dense, order, means, layout, everyone, out)
        return torch.as_tensor(out[0, 0]), torch.as_tensor(out[0, 1])

    def fitted_upper(self, rdms: Floats) -> Floats | None:
        """See `Kernel.fitted_upper`; None of so many pairs that each two of them would take too long."""
        from neurordl.measures.kernels import compiled_ranks

        if rdms.shape[1] * rdms.size > _COUPLES:
            return None
        known, ranks = np.isfinite(rdms), np.zeros(rdms.shape)
        for row, vector, measured in zip(ranks, rdms, known, strict=True):
            row[measured] = mean_ranks(vector[None, measured])[0] - (measured.sum() + 1) / 2
        counts, out = known.astype(np.int32), np.empty((4, *rdms.T.shape), dtype=np.int64)
        work = partial(compiled_ranks.tournament, ranks, counts)
        in_threads(lambda part: work(part.start, part.stop, out), rdms.shape[1])
        standing, alike, decided, untied = out / 2
        size = known.sum(axis=1)
        if self.products:
            products = (standing * ranks.T).sum(axis=0)
            squares = (standing**2).sum(axis=0) * (ranks**2).sum(axis=1)
            lengths = np.sqrt(squares) if self.normalized else (size**3 - size) / 12
        else:
            products, pairs = alike.sum(axis=0), size * (size - 1) / 2
            lengths = np.sqrt(decided.sum(axis=0) * untied.sum(axis=0)) if self.normalized else pairs
        return np.asarray(np.divide(products, lengths, out=np.full(len(rdms), np.nan), where=lengths > 0))

    def permuted_bounds(self, rdms: Tensor, orders: Ints) -> Tensor | None:
        """See `Kernel.permuted_bounds`; None for Kendall's tau."""
        if not self.products:
            return None
        from neurordl.measures.kernels.compiled_ranks import permuted_bounds

        middle = (rdms.shape[1] + 1) / 2
        squares = square(torch.as_tensor(mean_ranks(_on_cpu(rdms, None)) - middle)).numpy()
        lower = np.full((len(orders), 1, 1, len(rdms)), np.nan)

        def work(part: slice) -> None:
            for row in range(len(orders))[part]:
                permuted_bounds(squares, orders[row : row + 1].astype(np.uint64), self.normalized, lower[row])

        in_threads(work, len(orders))
        return torch.as_tensor(lower[:, 0, 0])

    def partial(self, covariates: Floats) -> Partial | None:
        """See `Kernel.partial`: a partial correlation of ranks."""
        return Partial(covariates, ranked=True) if self.products and self.normalized else None

    def permutable(self, models: Tensor, data: Tensor) -> tuple[Tensor, Tensor, Kernel]:
        """See `Kernel.permutable`: ranks move with their pairs."""
        if not (self.products and self.normalized):
            return models, data, self
        left, right = (torch.as_tensor(mean_ranks(_on_cpu(rdms, None))) for rdms in (models, data))
        return left, right, InnerProducts(centered=True)

    def resample_measured(
        self, models: Floats, data: Floats, measured: Bools, drawn: Drawn
    ) -> tuple[Floats, Floats]:
        """See `Kernel.resample_measured`; it runs on the CPU."""
        from neurordl.measures.kernels import compiled_ranks

        ranks, order = dense_ranks(np.where(measured, np.concatenate([models, data]), 0))
        layout, once = (len(models), self.products, self.normalized), _once(data)

        def sampler(counts: Ints | None, sets: Ints, scores: Floats, bounds: Floats) -> None:
            sample = compiled_ranks.resample(ranks, order, once if counts is None else counts, measured)
            scores[:] = compiled_ranks.scores(*sample, layout)
            compiled_ranks.bounds(*sample, layout, sets, bounds)

        return _sampled(sampler, len(models), len(data), drawn)

    def sampler(self, models: Floats, data: Floats, shared: Bools) -> Sampler:
        """See `Kernel.sampler`."""
        from neurordl.measures.kernels.compiled_missing import rank_sample

        stack = np.concatenate([models, data])
        known = np.isfinite(stack)
        ranks, order = dense_ranks(np.where(known, stack, 0))
        layout, once = (len(models), self.products, self.normalized), _once(data)

        def sampler(counts: Ints | None, sets: Ints, scores: Floats, bounds: Floats) -> None:
            drawn = once if counts is None else counts
            rank_sample(ranks, order, known, shared, drawn, layout, sets, scores, bounds)

        return sampler


# correlations of several RDMs at once


def correlations(
    stack: Tensor, counts: Ints | None = None, measured: Tensor | None = None, *, ranked: bool = False
) -> Tensor:
    """Correlations of RDMs (rdms, pairs) with each other, (…, rdms, rdms); NaN with a constant one.

    Parameters
    ----------
    stack
        Condensed RDMs in float64.
    counts
        (resamples, stimuli) how often each was drawn; by default once, without that dimension.
    measured
        (pairs,) which pairs count; the values of the others mean nothing.
    ranked
        Correlate ranks, taken anew in each resample, which runs on the CPU.
    """
    if not ranked or counts is None:
        values = torch.as_tensor(mean_ranks(_on_cpu(stack, measured))) if ranked else stack
        mask = None if ranked else measured
        times = None if counts is None else torch.as_tensor(counts).to(stack)
        grams = InnerProducts(centered=True).grams(values[:0], values, times, mask, among=True)
        products = grams.data
        squares = torch.where(grams.lengths > 0, products.diagonal(dim1=-2, dim2=-1), torch.nan)
    else:
        from neurordl.measures.kernels import compiled_ranks

        known = np.ones(stack.shape[1], dtype=bool) if measured is None else measured.cpu().numpy()
        ranks, order = dense_ranks(np.where(known, stack.cpu(), 0))
        resampled = np.empty((len(counts), len(stack), len(stack)))

        def work(part: slice) -> None:
            for b in range(len(counts))[part]:
                weights, _, _, means = compiled_ranks.resample(ranks, order, counts[b], known)
                resampled[b] = (means * weights) @ means.T

        in_threads(work, len(counts))
        products = torch.as_tensor(resampled)
        squares = products.diagonal(dim1=-2, dim2=-1)
    lengths = torch.where(squares > 0, squares, torch.nan).sqrt()
    return products / lengths[..., :, None] / lengths[..., None, :]


def controlled(correlated: Tensor, n: int) -> Tensor:
    """Inner products of what the first ``n`` of correlated RDMs leave of the others, of unit length before.

    0 where only rounding is left. A covariate that is constant, or a sum of others, controls nothing more.
    """
    among, across = correlated[..., :n, :n].nan_to_num(), correlated[..., :n, n:]
    inverse = torch.linalg.pinv(among, rtol=_SINGULAR, hermitian=True)
    rest: Tensor = correlated[..., n:, n:] - across.nan_to_num().mT @ inverse @ across.nan_to_num()
    squares = rest.diagonal(dim1=-2, dim2=-1)
    squares[squares <= _SINGULAR] = 0
    return rest


@dataclass(frozen=True, eq=False)
class Partial(Kernel):
    """Correlation of what covariates leave of RDMs, of their values or of their ranks.

    All of it is known from the correlations of all RDMs with each other, in each resample.

    Attributes
    ----------
    covariates
        (covariates, pairs); a pair that one of them misses (NaN) is left out.
    ranked
        Control and correlate ranks, as for spearman, instead of values.
    """

    covariates: Floats
    ranked: bool

    def similarity(self, models: Tensor, data: Tensor, measured: Tensor | None = None) -> Tensor:
        """See `Kernel.similarity`."""
        return cosines(self._grams(models, data, measured))

    def bounds(self, rdms: Tensor, measured: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `Kernel.bounds`."""
        grams = self._grams(rdms[:0], rdms, measured)
        return bounds(grams.data, pooling_weights(grams.lengths))

    def permuted_bounds(self, rdms: Tensor, orders: Ints) -> Tensor:
        """See `Kernel.permuted_bounds`: what the covariates leave is permuted."""
        values, covariates = rdms, torch.as_tensor(self.covariates)
        if self.ranked:
            values, covariates = (torch.as_tensor(mean_ranks(_on_cpu(x, None))) for x in (values, covariates))
        basis = torch.cat([torch.ones_like(covariates[:1]), covariates])
        basis = basis / basis.abs().amax(-1, keepdim=True).clamp(min=1e-300)
        fitted = torch.linalg.lstsq(basis.T, values.T, driver="gelsd").solution
        return InnerProducts(centered=True).permuted_bounds(values - fitted.T @ basis, orders)

    def resample_measured(
        self, models: Floats, data: Floats, measured: Bools, drawn: Drawn
    ) -> tuple[Floats, Floats]:
        """See `Kernel.resample_measured`."""
        left, right, sets = (
            torch.as_tensor(x, dtype=torch.float64, device=drawn.device) for x in (models, data, drawn.sets)
        )
        grams = self._grams(left, right, torch.as_tensor(measured, device=drawn.device), drawn.counts)
        each = bounds(
            grams.data.expand(*sets.shape[:2], -1, -1), sets * pooling_weights(grams.lengths).to(sets)
        )
        limits = torch.where(sets[..., None, :] > 0, torch.stack(each, -2), torch.nan)
        return cosines(grams).cpu().numpy(), limits.cpu().numpy()

    def basis(self) -> Tensor | None:
        """Orthonormal centered rows that span the covariates; None of ranks, or where pairs are missing."""
        values = torch.as_tensor(self.covariates, dtype=torch.float64)
        if self.ranked or not bool(values.isfinite().all()):
            return None
        scaled = values / values.abs().amax(-1, keepdim=True).clamp(min=1e-300)
        centered = scaled - scaled.mean(-1, keepdim=True)
        lengths = torch.linalg.vector_norm(centered, dim=-1, keepdim=True)
        centered = centered[lengths[:, 0] > _CONSTANT * math.sqrt(values.shape[1])]
        centered = centered / torch.linalg.vector_norm(centered, dim=-1, keepdim=True)
        _, sizes, rows = torch.linalg.svd(centered, full_matrices=False)
        spanned: Tensor = rows[sizes.square() > _SINGULAR * sizes.square().amax()] if len(rows) else rows
        return spanned

    def _grams(
        self, models: Tensor, data: Tensor, measured: Tensor | None, counts: Ints | None = None
    ) -> Grams:
        """Inner products of what the covariates leave, with leading dimensions for resamples."""
        covariates = torch.as_tensor(self.covariates).to(data)
        known = covariates.isfinite().all(0)
        measured = known if measured is None else measured & known
        stack = torch.cat([covariates, models, data])
        rest = controlled(correlations(stack, counts, measured, ranked=self.ranked), len(covariates))
        n = len(models)
        squares = rest.diagonal(dim1=-2, dim2=-1)
        return Grams(rest[..., :n, n:], squares[..., :n], rest[..., n:, n:], squares[..., n:].sqrt())


def _once(data: Floats) -> Ints:
    return np.ones(n_stimuli(data.shape[1]), dtype=np.int64)


def _on_cpu(rdms: Tensor, measured: Tensor | None) -> Floats:
    """The measured pairs as an array."""
    return np.asarray((rdms if measured is None else rdms[:, measured]).cpu())


def in_threads(work: Callable[[slice], None], size: int, n_values: int = _WORTH_THREADS) -> None:
    """Do compiled work, which releases the GIL, on parts of some rows, in as many threads as torch has.

    Rows with few values are done in this thread, since starting threads would take longer.
    """
    threads = min(torch.get_num_threads(), size)
    if threads < 2 or n_values < _WORTH_THREADS:
        work(slice(0, size))
        return
    ends = [size * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, map(slice, ends[:-1], ends[1:])))
