"""Comparisons of ranks: each RDM is sorted once, for its similarities, ceilings and resamples."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurordl.arrays import Bools, Floats, Ints
from neurordl.measures.condensed import n_stimuli, square
from neurordl.measures.kernels.kernel import Kernel
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
        once, everyone = np.ones(vectors.shape[1], dtype=np.int32), np.ones(len(vectors), dtype=np.int64)
        out = np.full((2, len(vectors)), np.nan)
        layout = 0, self.products, self.normalized
        compiled_ranks.bounds(once, dense, order, means, layout, everyone, out)
        return torch.as_tensor(out[0]), torch.as_tensor(out[1])

    def permuted_bounds(self, rdms: Tensor, orders: Ints) -> Tensor | None:
        """See `Kernel.permuted_bounds`; None for Kendall's tau."""
        if not self.products:
            return None
        from neurordl.measures.kernels.compiled_ranks import permuted_bounds

        middle = (rdms.shape[1] + 1) / 2
        squares = square(torch.as_tensor(mean_ranks(_on_cpu(rdms, None)) - middle)).numpy()
        lower = np.full((len(orders), 1, len(rdms)), np.nan)

        def work(part: slice) -> None:
            for row in range(len(orders))[part]:
                permuted_bounds(squares, orders[row], self.normalized, lower[row])

        in_threads(work, len(orders))
        return torch.as_tensor(lower[:, 0])

    def permutable(self, models: Tensor, data: Tensor) -> tuple[Tensor, Tensor, Kernel]:
        """See `Kernel.permutable`: ranks move with their pairs."""
        if not (self.products and self.normalized):
            return models, data, self
        left, right = (torch.as_tensor(mean_ranks(_on_cpu(rdms, None))) for rdms in (models, data))
        return left, right, InnerProducts(centered=True)

    def resample_measured(
        self,
        models: Floats,
        data: Floats,
        measured: Bools,
        counts: Ints | None,
        sets: Ints | None,
        device: str | torch.device | None = None,
    ) -> tuple[Floats, Floats]:
        """See `Kernel.resample_measured`; it runs on the CPU."""
        from neurordl.measures.kernels import compiled_ranks

        n, n_data = len(models), len(data)
        counts = np.ones((1, n_stimuli(data.shape[1])), dtype=np.int64) if counts is None else counts
        ranks, order = dense_ranks(np.where(measured, np.concatenate([models, data]), 0))
        layout = n, self.products, self.normalized
        scores = np.empty((len(counts), n, n_data))
        sets = np.zeros((0, len(counts), n_data), dtype=np.int64) if sets is None else sets
        bounds = np.full((*sets.shape[:2], 2, n_data), np.nan)

        def work(part: slice) -> None:
            sample, last = None, -1
            for b in range(sets.shape[1])[part]:
                row = min(b, len(counts) - 1)  # a single row of counts serves all sets
                if sample is None or row != last:
                    sample, last = compiled_ranks.resample(ranks, order, counts[row], measured), row
                    scores[row] = compiled_ranks.scores(*sample, layout)
                for drawn, out in zip(sets[:, b], bounds[:, b], strict=True):
                    compiled_ranks.bounds(*sample, layout, drawn, out)

        in_threads(work, sets.shape[1])
        return scores, bounds


def _on_cpu(rdms: Tensor, measured: Tensor | None) -> Floats:
    """The measured pairs as an array."""
    return np.asarray((rdms if measured is None else rdms[:, measured]).cpu())


def in_threads(work: Callable[[slice], None], size: int) -> None:
    """Do compiled work, which releases the GIL, on parts of some rows, in as many threads as torch has."""
    threads = min(torch.get_num_threads(), size)
    if threads < 2:
        work(slice(0, size))
        return
    ends = [size * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, map(slice, ends[:-1], ends[1:])))
