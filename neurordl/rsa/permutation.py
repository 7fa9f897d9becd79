"""Permutation of the stimuli of model RDMs: whether a similarity may be chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from neurordl.errors import NeurordlError
from neurordl.rsa.ceilings import mean_along
from neurordl.rsa.similarity import check_stacks, mean_ranks, similarity

__all__ = ["permutation_p"]

Floats = npt.NDArray[np.float64]

_STACK = 256 << 20  # bytes of permuted RDMs held together


def permutation_p(
    models: Floats, data: Floats, method: str, *, n_permutations: int = 1000, rng: np.random.Generator
) -> Floats:
    """One-sided p of each model's mean similarity, its stimuli permuted (rows and columns together).

    Estimand: whether these models are related to these subjects on these stimuli at all, beside the same
    RDMs with their stimuli assigned at random; it generalises to neither other subjects nor other stimuli.
    All models are permuted alike, so that p-values of several can be corrected together.

    Parameters
    ----------
    models, data
        Condensed RDMs (models, pairs), (subjects, pairs); NaN marks a missing pair.
    method
        One of ``METHODS``.
    n_permutations
        How many; the smallest p is one over this number plus one.
    rng
        Where they come from.

    Returns
    -------
    array, (models,)
        NaN where the similarity is undefined.

    Raises
    ------
    NeurordlError
        RDMs over different pairs, an unknown method, no permutation or no model.
    """
    models, data = (np.asarray(x, dtype=np.float64) for x in (models, data))
    if method == "spearman" and np.isfinite(models).all() and np.isfinite(data).all():
        models, data, method = mean_ranks(models), mean_ranks(data), "corr"  # ranks move with their pairs
    n = check_stacks(models, data)
    if n_permutations < 1 or not len(models):
        raise NeurordlError(f"{n_permutations} permutations of {len(models)} models: take 1 or more of each")
    found = mean_along(similarity(models, data, method), 1)
    i, j = np.triu_indices(n, 1)
    number = np.zeros((n, n), dtype=np.int64)
    number[i, j] = number[j, i] = np.arange(len(i))
    exceed = np.zeros(len(models))
    step = max(1, _STACK // (8 * models.size))
    for start in range(0, n_permutations, step):
        orders = [rng.permutation(n) for _ in range(min(step, n_permutations - start))]
        moved = np.concatenate([models[:, number[order[i], order[j]]] for order in orders])
        null = mean_along(similarity(moved, data, method), 1).reshape(len(orders), -1)
        exceed += (~(null < found - 1e-12)).sum(axis=0)
    return np.where(np.isfinite(found), (1 + exceed) / (1 + n_permutations), np.nan)
