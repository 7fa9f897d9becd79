"""How similar RDMs are, how similar they could be (noise ceilings), and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rsatoolbox.rdm.rdms import RDMs
from scipy import stats

from neurordl.errors import NeurordlError
from neurordl.ids import match_ids, natural_key
from neurordl.rdms.selection import check_one_per_subject, reindex, select_rdms, stimulus_ids
from neurordl.rsa.ceilings import ceiling
from neurordl.rsa.inference.infer import Inference, infer
from neurordl.rsa.similarity import METHODS, check_method, missing_groups, similarity, why_undefined

__all__ = [
    "METHODS",
    "Inference",
    "ceiling",
    "check_method",
    "compare",
    "infer",
    "mean_interval",
    "missing_groups",
    "noise_ceiling",
    "similarity",
    "why_undefined",
]

Floats = npt.NDArray[np.float64]


def compare(
    models: RDMs, data: RDMs, method: str = "rho-a", missing: Literal["error", "ignore"] = "error"
) -> Floats:
    """Similarity of every model RDM with every data RDM, matched by stimulus id, never by position.

    Parameters
    ----------
    models, data
        RDMs with the pattern descriptor ``stimulus``. The data may hold more stimuli than the models.
    method
        One of ``METHODS``, as rsatoolbox means them: ``cosine``, ``corr`` (Pearson), and both whitened for
        the covariance of distances that share a stimulus (``cosine_cov``, ``corr_cov``; Diedrichsen et al.
        2020, arXiv:2007.02789); ``spearman``, and ``rho-a``, its expected value when ties are broken at
        random (Schütt et al. 2023, eLife 12:e82566); Kendall's ``tau-a`` and ``tau-b``.
    missing
        "error": the data must hold every stimulus of the models; "ignore": the shared ones are compared.

    Returns
    -------
    array, (models, data)
        Each from the pairs of stimuli measured in both RDMs. NaN where that is undefined: fewer than two such
        pairs, an RDM constant on them (``rho-a`` and ``tau-a`` are 0 then, by definition), or all zeros under
        the cosines.

    Raises
    ------
    NeurordlError
        Unknown method, ids that are absent or do not match, fewer than three shared stimuli.
    """
    check_method(method)
    match = match_ids(stimulus_ids(models), stimulus_ids(data), names=("models", "data"), missing=missing)
    if len(match.matched) < 3:
        raise NeurordlError(
            f"3 shared stimuli or more are needed, but there are {len(match.matched)}\n{match}"
        )
    ids = sorted(match.matched, key=natural_key)  # the same sums in whatever order the data came
    return similarity(reindex(models, ids), reindex(data, ids), method)


def noise_ceiling(
    rdms: RDMs,
    method: str = "rho-a",
    *,
    roi: str | None = None,
    subjects: str | Sequence[str] | None = None,
    select: Mapping[str, Any] | None = None,
    average: str | Sequence[str] | None = None,
) -> tuple[float, float]:
    """Bounds on the similarity that the true model would reach, given how far subjects agree.

    As in Nili et al. (2014, PLoS Comput. Biol. 10:e1003553), with rsatoolbox's pooling: the mean over
    subjects of the similarity of each one's RDM with the pooled RDM of the others (lower), and of all
    (upper), for these subjects and stimuli.
    Equal to ``rsatoolbox.inference.boot_noise_ceiling`` where no pair is missing. Otherwise a pair is pooled
    over the subjects in whom it was measured, each subject's values being scaled by their own pairs.

    Parameters
    ----------
    rdms
        One RDM per subject after selection.
    method
        One of ``METHODS``.
    roi, subjects, select, average
        As in `select_rdms`.

    Returns
    -------
    lower, upper
        NaN where no subject's similarity is defined.

    Raises
    ------
    NeurordlError
        Fewer than two subjects, or several RDMs of one.
    """
    check_method(method)
    chosen = select_rdms(rdms, roi=roi, subjects=subjects, select=select, average=average)
    check_one_per_subject(chosen)
    if len(chosen) < 2:
        raise NeurordlError(
            "a noise ceiling takes the RDMs of two subjects or more, but there is one; choose more subjects"
        )
    return ceiling(np.asarray(chosen.dissimilarities, dtype=np.float64), method)


def mean_interval(scores: Floats) -> tuple[float, float, float, float, int]:
    """Mean over subjects, its 95 % t interval and p against zero (one-sided): rsatoolbox's ``eval_fixed``.

    Estimand: the mean over the population of subjects, for these stimuli.

    Parameters
    ----------
    scores
        One score per subject; NaN ones are left out.

    Returns
    -------
    mean, low, high, p, n
        The interval and p are NaN with fewer than two defined scores.
    """
    defined = scores[np.isfinite(scores)]
    n = len(defined)
    if n < 2:
        return (float(defined[0]) if n else np.nan), np.nan, np.nan, np.nan, n
    mean, variance = float(defined.mean()), float(defined.var(ddof=1)) / n
    reach = float(stats.t.ppf(0.975, n - 1)) * np.sqrt(variance)
    p = float(stats.t.sf(mean / np.sqrt(max(variance, np.finfo(float).eps)), n - 1))
    return mean, mean - reach, mean + reach, p, n
