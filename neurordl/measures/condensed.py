"""The condensed form of RDMs: the upper triangle row by row, as in rsatoolbox and SciPy."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from neurordl.arrays import Bools, Floats, Ints
from neurordl.errors import NeurordlError

Numbers = TypeVar("Numbers", int, Tensor, Ints)

_BYTES = 64 << 20  # of square matrices at once
_KEPT = 1024  # stimuli up to which places in matrices are kept: 12 MB
_ROWS = 3_000  # sums of all RDMs from which a step for each stimulus is quicker than square matrices


def condensed_index(n: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Rows and columns of the pairs of ``n`` stimuli in condensed order: (0, 1), (0, 2), ..., (n-2, n-1)."""
    row, column = torch.triu_indices(n, n, offset=1, device=device or "cpu")
    return row, column


def square_index(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places in a flat (n, n) matrix of the condensed pairs, and the pair at each place (0 on the diagonal).

    Those of a batch are kept for the next one of as many stimuli, so they must not be changed.
    """
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    # what is captured holds nothing before the graph runs, so it is of no use to others
    passing = capturing or n > _KEPT
    return _square_index.__wrapped__(n, device) if passing else _square_index(n, device)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _square_index(n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    row, column = condensed_index(n, device)
    number = torch.arange(n, device=device)
    low, high = torch.minimum(number[:, None], number), torch.maximum(number[:, None], number)
    return row * n + column, pair_number(low, high, n).fill_diagonal_(0).flatten()


def pair_number(low: Numbers, high: Numbers, n: int) -> Numbers:
    """Return the condensed number of the pairs (low, high) of ``n`` stimuli, for ``low < high`` elementwise.

    Examples
    --------
    >>> pair_number(1, 3, n=4)
    4
    """
    return low * (2 * n - low - 1) // 2 + high - low - 1


def n_stimuli(n_pairs: int) -> int:
    """Return the number of stimuli of a condensed RDM of ``n_pairs`` pairs.

    Raises
    ------
    NeurordlError
        No number of stimuli has that many pairs.
    """
    n = (1 + math.isqrt(1 + 8 * n_pairs)) // 2
    if n * (n - 1) // 2 != n_pairs:
        raise NeurordlError(f"a condensed RDM (upper triangle) has 1, 3, 6, 10, ... pairs, not {n_pairs}")
    return n


def square(condensed: Tensor) -> Tensor:
    """Convert condensed RDMs (..., n(n-1)/2) to symmetric matrices (..., n, n) with zero diagonals."""
    n = n_stimuli(condensed.shape[-1])
    row, column = condensed_index(n, condensed.device)
    matrix = condensed.new_zeros((*condensed.shape[:-1], n, n))
    # nothing accumulates, so the gradient is the same from run to run
    matrix.flatten(-2).index_copy_(-1, row * n + column, condensed)
    return matrix + matrix.mT


def stimulus_sums(rdms: Tensor) -> Tensor:
    """Sum of each stimulus's dissimilarities: (rdms, stimuli)."""
    n = n_stimuli(rdms.shape[1])
    if len(rdms) * n > _ROWS and rdms.device.type == "cpu":  # row by row: no square matrix is made
        sums = rdms.new_zeros(len(rdms), n)
        start = 0
        for i in range(n - 1):
            row = rdms[:, start : start + n - 1 - i]
            sums[:, i] += row.sum(-1)
            sums[:, i + 1 :] += row
            start += n - 1 - i
        return sums
    step = max(1, _BYTES // (16 * rdms.shape[1] + 1))
    return torch.cat([square(part).sum(-1) for part in torch.split(rdms, step)])


def unmeasured_stimuli(measured: Bools) -> list[int]:
    """List the stimuli, numbered from 0, that are in none of the measured pairs, (pairs,)."""
    if measured.all():
        return []
    return np.flatnonzero(stimulus_sums(torch.as_tensor(measured[None]).float())[0] == 0).tolist()


def missing_groups(vectors: Floats | Tensor) -> list[tuple[list[int], Bools]]:
    """Rows that miss the same pairs, with the mask of these pairs."""
    stack = torch.as_tensor(vectors)
    if bool(stack.sum().isfinite()):  # a single pass, without a mask of them all
        return [(list(range(len(stack))), np.zeros(stack.shape[1], dtype=bool))] if len(stack) else []
    finite = stack.isfinite().cpu().numpy()
    groups: dict[bytes, tuple[list[int], Bools]] = {}
    for row, missing in enumerate(~finite):
        groups.setdefault(np.packbits(missing).tobytes(), ([], missing))[0].append(row)
    return list(groups.values())
