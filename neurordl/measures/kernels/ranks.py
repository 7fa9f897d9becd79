"""Comparisons of ranks: each RDM is sorted once, for its similarities, ceilings and resamples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurordl.arrays import Bools, Floats, Ints
from neurordl.measures.condensed import n_stimuli, square
from neurordl.measures.kernels.kernel import Kernel, Resampled, in_threads, missing_groups
from neurordl.measures.kernels.products import InnerProducts


def mean_ranks(vectors: Floats) -> Floats:
    """Ranks from 1 of each row (rdms, pairs); ties share their mean."""
    from neurordl.measures.kernels import compiled_ranks  # numba takes a second to import

    vectors = np.ascontiguousarray(vectors)
    out = np.empty_like(vectors)
    in_threads(lambda rows: compiled_ranks.mean_ranks(vectors[rows], out[rows]), len(vectors))
    return out


def dense_ranks(vectors: Floats) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Ranks from 0 of each row (ties share a rank and no rank is skipped), and the order that sorts it."""
    from neurordl.measures.kernels import compiled_ranks

    vectors = np.ascontiguousarray(vectors)
    ranks, order = (np.empty(vectors.shape, dtype=np.int32) for _ in range(2))
    in_threads(lambda rows: compiled_ranks.dense_ranks(vectors[rows], ranks[rows], order[rows]), len(vectors))
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

        once = np.zeros(0, dtype=np.int32)
        (ranks_a, _), (ranks_b, order_b) = (dense_ranks(rdms) for rdms in (models, data))
        scores = np.empty((len(models), len(data)))

        def work(rows: slice) -> None:
            for row in range(len(models))[rows]:
                for column in range(len(data)):
                    pair = ranks_a[row], ranks_b[column], order_b[column]
                    scores[row, column] = tau(*pair, once, self.normalized)

        in_threads(work, len(models))
        return scores

    def bounds(self, rdms: Tensor, measured: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """See `Kernel.bounds`; None for Kendall's tau."""
        if not self.products:
            return None
        vectors = _on_cpu(rdms, measured)
        ranks = mean_ranks(vectors)
        ranks[np.ptp(vectors, axis=1) == 0] = 0  # pooled with nobody
        total = ranks.sum(axis=0)
        middle = (vectors.shape[1] + 1) / 2
        everyone = mean_ranks(total[None])[0] - middle
        lower, upper = np.full((2, len(ranks)), np.nan)
        for subject, row in enumerate(ranks):  # one after the other: no second stack is kept
            other_subjects = mean_ranks((total - row)[None])[0] - middle
            centered = row - middle if row.any() else np.zeros(len(row))
            lower[subject], upper[subject] = (self._product(centered, x) for x in (other_subjects, everyone))
        return torch.as_tensor(lower), torch.as_tensor(upper)

    def _product(self, a: Floats, b: Floats) -> float:
        """Similarity of centered ranks."""
        product = float(a @ b)
        if not self.normalized:
            return product * 12 / (len(a) ** 3 - len(a))
        squares = float(a @ a) * float(b @ b)
        return product / float(np.sqrt(squares)) if squares > 0 else np.nan

    def permuted_bounds(self, rdms: Tensor, orders: Ints) -> Tensor | None:
        """See `Kernel.permuted_bounds`; None for Kendall's tau, and where an RDM is constant."""
        vectors = _on_cpu(rdms, None)
        if not self.products or bool((np.ptp(vectors, axis=1) == 0).any()):
            return None
        from neurordl.measures.kernels.compiled_ranks import permuted_pooled

        squares = square(torch.as_tensor(mean_ranks(vectors))).numpy()
        lower = np.empty(orders.shape[:2])

        def work(part: slice) -> None:
            moved, pooled = np.empty((2, *vectors.shape))
            for row in range(len(orders))[part]:
                permuted_pooled(squares, orders[row], moved, pooled)
                lower[row] = [self._product(a, b) for a, b in zip(moved, pooled, strict=True)]

        in_threads(work, len(orders))
        return torch.as_tensor(lower)

    def permutable(self, models: Tensor, data: Tensor) -> tuple[Tensor, Tensor, Kernel]:
        """See `Kernel.permutable`: ranks move with their pairs."""
        if not (self.products and self.normalized):
            return models, data, self
        left, right = (torch.as_tensor(mean_ranks(_on_cpu(rdms, None))) for rdms in (models, data))
        return left, right, InnerProducts(centered=True)

    def resample(
        self,
        models: Floats,
        data: Floats,
        counts: Ints | None,
        sets: Ints,
        shared: Bools,
        device: str | torch.device | None = None,
    ) -> Resampled | None:
        """See `Kernel.resample`; None where subjects miss different pairs. It runs on the CPU."""
        if len(missing_groups(data)) != 1:
            return None
        times = np.ones((1, n_stimuli(data.shape[1])), dtype=np.int64) if counts is None else counts
        scores = np.full((len(times), len(models), len(data)), np.nan)
        ceilings = np.full((*sets.shape[:2], 2), np.nan)
        in_data = np.isfinite(data[0])
        common = in_data & shared
        groups = [(rows, in_data & ~absent) for rows, absent in missing_groups(models)]
        if not any((kept == common).all() for _, kept in groups):
            groups.append(([], common))
        bounded = False  # ceilings are taken once, with models that have just their pairs
        for rows, kept in groups:
            wanted = not bounded and bool((kept == common).all())
            bounded = bounded or wanted
            out = np.empty((len(times), len(rows), len(data)))
            self._fill(models[rows], data, kept, times, sets, out, ceilings if wanted else None)
            scores[:, rows] = out
        return Resampled(scores, ceilings)

    def _fill(
        self,
        models: Floats,
        data: Floats,
        measured: Bools,
        counts: Ints,
        sets: Ints,
        scores: Floats,
        ceilings: Floats | None,
    ) -> None:
        """Fill in scores, and ceilings where they are wanted, of RDMs that all have the measured pairs."""
        from neurordl.measures.kernels import compiled_ranks

        (ranks_a, order_a), (ranks_b, order_b) = (
            dense_ranks(np.where(measured, rdms, 0)) for rdms in (models, data)
        )
        ranks, order = np.concatenate([ranks_a, ranks_b]), np.concatenate([order_a, order_b])
        layout = len(models), self.products, self.normalized

        def work(part: slice) -> None:
            sample, last = None, -1
            for b in range(sets.shape[1])[part]:
                row = min(b, len(counts) - 1)  # a single row of counts serves all sets
                if sample is None or row != last:
                    sample, last = compiled_ranks.resample(ranks, order, counts[row], measured), row
                    scores[row] = compiled_ranks.scores(*sample, layout)
                if ceilings is not None:
                    compiled_ranks.ceilings(*sample, layout, sets[:, b], ceilings[:, b])

        in_threads(work, sets.shape[1])


def _on_cpu(rdms: Tensor, measured: Tensor | None) -> Floats:
    """The measured pairs as an array."""
    return np.asarray((rdms if measured is None else rdms[:, measured]).cpu())
