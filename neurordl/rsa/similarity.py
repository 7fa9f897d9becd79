"""Similarity of stacks of RDMs, models with data, by every method; missing pairs left out by couple."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.measures.comparisons import COMPARISONS
from neurordl.measures.condensed import n_stimuli
from neurordl.measures.geometry import bures, centred_kernels, negative_riemannian
from neurordl.measures.kernels.products import GRAM_METHODS, cosines, grams

__all__ = [
    "METHODS",
    "RANKED",
    "check_method",
    "check_stacks",
    "in_threads",
    "mean_ranks",
    "missing_groups",
    "ranked",
    "similarity",
    "why_undefined",
]

METHODS = tuple(name for name, entry in COMPARISONS.items() if entry.higher_is_better)
RANKED = ("spearman", "rho-a", "tau-a", "tau-b")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int32]

# Expected values under random tie breaking: 0 for a constant RDM, by definition.
_TIES_BROKEN = ("rho-a", "tau-a")
_ROUNDING = 1e-12


def check_method(method: str) -> None:
    """Refuse a comparison that RDMs are not scored with; the error lists those they are."""
    if method not in METHODS:
        raise NeurordlError(f"unknown method {method!r} to compare RDMs; choose one of {', '.join(METHODS)}")


def check_stacks(models: Tensor | Floats, data: Tensor | Floats) -> int:
    """How many stimuli these RDMs are of; refuse what is not condensed over the same pairs."""
    if models.ndim != 2 or data.ndim != 2 or models.shape[1] != data.shape[1]:
        raise NeurordlError(
            "RDMs are compared as (models, pairs) and (data, pairs) over the same pairs, but got "
            f"{tuple(models.shape)} and {tuple(data.shape)}"
        )
    return n_stimuli(models.shape[1])


@overload
def similarity(models: Tensor, data: Tensor, method: str) -> Tensor: ...
@overload
def similarity(models: npt.ArrayLike, data: npt.ArrayLike, method: str) -> Floats: ...
def similarity(models: npt.ArrayLike | Tensor, data: npt.ArrayLike | Tensor, method: str) -> Floats | Tensor:
    """Similarity of condensed RDMs (models, pairs) with others (data, pairs), computed in float64.

    Equal to ``rsatoolbox.rdm.compare``, which wants the same pairs missing in all RDMs. Here each couple is
    compared on the pairs measured in both (NaN marks a missing one), and ranks are taken on these.

    Parameters
    ----------
    models, data
        Arrays, or tensors of any dtype on one device. Ranks and tau are computed on the CPU, compiled.
    method
        One of ``METHODS``. ``bures`` and ``neg_riem_dist`` are rsatoolbox's: the former is not symmetric
        where squared distances are not Euclidean, the latter is a distance times -1, found by Nelder and
        Mead's search. ``cka`` takes RDMs as squared Euclidean distances (Kornblith et al. 2019,
        arXiv:1905.00414) and equals ``cosine_cov``.

    Returns
    -------
    array or tensor, (models, data)
        NaN where undefined (rsatoolbox gives 0, or raises): fewer than two shared pairs; an RDM that is
        constant on them (``rho-a`` and ``tau-a`` are 0 then, by definition), or zero under the cosines, cka,
        bures and ``neg_riem_dist``; under the last also data of no Euclidean geometry, or of fewer
        dimensions than stimuli less one.

    Raises
    ------
    NeurordlError
        Unknown method; RDMs over different pairs; missing pairs under cka, bures or neg_riem_dist.
    """
    check_method(method)
    tensors = isinstance(models, Tensor) and isinstance(data, Tensor)
    a, b = (torch.as_tensor(x).detach().to(torch.float64) for x in (models, data))
    check_stacks(a, b)
    if method in GRAM_METHODS and a.shape[1] > 1:
        whole_ones = grams(a, b, method)
        if bool(
            whole_ones.models.isfinite().all() and whole_ones.data.isfinite().all()
        ):  # nothing is missing
            complete = cosines(whole_ones)
            return complete if tensors else complete.cpu().numpy()
    out = torch.full((len(a), len(b)), torch.nan, dtype=torch.float64, device=a.device)
    for rows, absent in missing_groups(a):
        for columns, absent_here in missing_groups(b):
            kept = torch.as_tensor(~(absent | absent_here), device=a.device)
            whole = bool(kept.all())
            if not whole and COMPARISONS[method].complete:
                raise NeurordlError(
                    f"{method} needs complete RDMs, but {int((~kept).sum())} of {len(kept)} pairs are "
                    "missing; choose stimuli that every RDM has, or compare with cosine_cov or corr"
                )
            if int(kept.sum()) < 2:
                continue
            left, right = (x if len(of) == len(x) else x[of] for x, of in ((a, rows), (b, columns)))
            alike = _alike(left, right, method, None if whole else kept)
            out[torch.tensor(rows)[:, None], torch.tensor(columns)] = alike
    return out if tensors else out.cpu().numpy()


def _alike(a: Tensor, b: Tensor, method: str, kept: Tensor | None) -> Tensor:
    """Similarity of RDMs that have the same pairs."""
    if method in GRAM_METHODS:
        found = cosines(grams(a, b, method, measured=kept))
    elif method == "cka":
        found = cosines(grams(centred_kernels(a).flatten(1), centred_kernels(b).flatten(1), "cosine"))
    elif method == "bures":
        found = bures(a, b)
    elif method == "neg_riem_dist":
        flat = _flat(a, method)[:, None] | _flat(b, method)
        found = torch.where(flat, torch.nan, negative_riemannian(a, b))
    else:
        if kept is not None:
            a, b = a[:, kept], b[:, kept]
        found = torch.as_tensor(_ranked(a.cpu().numpy(), b.cpu().numpy(), method), device=a.device)
    return found


def _ranked(a: Floats, b: Floats, method: str) -> Floats:
    """Rank measures of complete RDMs; each RDM is sorted once."""
    if method in ("spearman", "rho-a"):
        left, right = (torch.as_tensor(mean_ranks(x)) for x in (a, b))
        if method == "spearman":
            return np.asarray(cosines(grams(left, right, "corr")))
        p = a.shape[1]
        for ranks in (left, right):
            ranks -= (p + 1) / 2
        return np.asarray(left @ right.T * 12 / (p**3 - p))
    from neurordl.measures.kernels.concordance import tau  # numba takes a second to import

    once = np.zeros(0, dtype=np.int32)
    (ranks_a, _), (ranks_b, order_b) = (ranked(x) for x in (a, b))
    out = np.empty((len(a), len(b)))

    def compare(rows: slice) -> None:
        for row in range(len(a))[rows]:
            for column in range(len(b)):
                pair = ranks_a[row], ranks_b[column], order_b[column]
                out[row, column] = tau(*pair, once, method == "tau-b")

    in_threads(compare, len(a))
    return out


def mean_ranks(vectors: Floats) -> Floats:
    """Ranks from 1 of each RDM, ties sharing their mean."""
    from neurordl.measures.kernels import ranks as ranking

    vectors = np.ascontiguousarray(vectors)
    out = np.empty_like(vectors)
    in_threads(lambda rows: ranking.mean_ranks(vectors[rows], out[rows]), len(vectors))
    return out


def ranked(vectors: Floats) -> tuple[Ints, Ints]:
    """Dense ranks of each RDM and the order that sorts it, each sorted once."""
    from neurordl.measures.kernels import ranks as ranking

    vectors = np.ascontiguousarray(vectors)
    ranks, order = (np.empty(vectors.shape, dtype=np.int32) for _ in range(2))
    in_threads(lambda rows: ranking.dense_ranks(vectors[rows], ranks[rows], order[rows]), len(vectors))
    return ranks, order


def in_threads(work: Callable[[slice], None], size: int) -> None:
    """Do compiled work, which lets go of the GIL, on parts of some rows; as many threads as torch has."""
    threads = min(torch.get_num_threads(), size)
    if threads < 2:
        work(slice(0, size))
        return
    ends = [size * k // threads for k in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, map(slice, ends[:-1], ends[1:])))


def missing_groups(vectors: Floats | Tensor) -> list[tuple[list[int], Bools]]:
    """Rows that miss the same pairs, with the mask of these: what is missing alike is compared in one go."""
    stack = torch.as_tensor(vectors)
    if bool(stack.sum().isfinite()):  # one pass, without a mask of them all
        return [(list(range(len(stack))), np.zeros(stack.shape[1], dtype=bool))] if len(stack) else []
    finite = stack.isfinite().cpu().numpy()
    groups: dict[bytes, tuple[list[int], Bools]] = {}
    for k, missing in enumerate(~finite):
        groups.setdefault(np.packbits(missing).tobytes(), ([], missing))[0].append(k)
    return list(groups.values())


def _flat(vectors: Tensor, method: str) -> Tensor:
    """Rows for which a method is undefined: constant, or zero where it is no correlation."""
    if method in _TIES_BROKEN:
        return torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
    low, high = vectors.aminmax(dim=-1)
    largest = torch.maximum(low.abs(), high.abs())
    if method.startswith("corr") or method in RANKED:
        return high - low <= _ROUNDING * largest
    return largest == 0


def why_undefined(model: Floats, data: Floats, method: str, model_name: str, data_name: str) -> str:
    """Say why the similarity of two condensed RDMs is NaN."""
    both = np.isfinite(model) & np.isfinite(data)
    for vector, name in ((model, model_name), (data, data_name)):
        if not np.isfinite(vector).any():
            return f"the RDM of {name} has no defined value on these pairs"
    if both.sum() < 2:
        return f"{int(both.sum())} pairs are measured in both RDMs, two or more are needed"
    for vector, name in ((model, model_name), (data, data_name)):
        if bool(_flat(torch.as_tensor(vector[None, both]), method)):
            same = "constant" if method.startswith("corr") or method in RANKED else "zero"
            return f"the RDM of {name} is {same} on these pairs"
    if method == "neg_riem_dist":
        return "neg_riem_dist takes RDMs whose points span as many dimensions as there are stimuli, less one"
    return f"{method} is undefined here"
