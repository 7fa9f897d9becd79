"""Noise covariance of channels, from residuals or from repeated measurements, and its inverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from rsatoolbox.data.base import DatasetBase

from neurordl.arrays import Floats
from neurordl.errors import NeurordlError
from neurordl.validate import check_choice

__all__ = ["Datasets", "Estimator", "Noise", "covariance", "inverse", "inverse_root"]

Datasets = DatasetBase | Sequence[DatasetBase] | Mapping[str, DatasetBase]
Estimator = Literal["diagonal", "shrinkage_eye", "shrinkage_diag", "full"]


@dataclass(frozen=True, eq=False)
class Noise:
    """How the noise covariance of channels is estimated, whose inverse is the precision.

    Parameters
    ----------
    estimator
        "diagonal": variances only (univariate noise normalisation). "shrinkage_eye": shrunk towards a
        multiple of the identity (Ledoit & Wolf 2004, J. Multivar. Anal. 88:365). "shrinkage_diag": shrunk
        towards the diagonal (Schäfer & Strimmer 2005, Stat. Appl. Genet. Mol. Biol. 4:32). "full": the sample
        covariance. They are those of rsatoolbox.
    residuals
        Residuals of each Dataset, with the same channels (`read_patterns` gives them): by name, if patterns
        are given by name. Their degrees of freedom are those of the observation descriptor ``dof`` (of each
        row's run), or else rows less 1. By default, the noise is estimated from the measurements less the
        mean of their stimulus.
    by
        "pooled": one covariance. "run", for dissimilarities across runs: one from each run's residuals; for
        two runs the mean of theirs is inverted, as rsatoolbox does with a list of precisions.

    Raises
    ------
    NeurordlError
        There is no such estimator or grouping.
    """

    estimator: Estimator
    residuals: Datasets | None = None
    by: Literal["pooled", "run"] = "pooled"

    def __post_init__(self) -> None:
        check_choice("noise", self.estimator, get_args(Estimator))
        check_choice("by", self.by, ("pooled", "run"))


def covariance(residuals: npt.NDArray[np.floating], dof: float, noise: Estimator, label: str) -> Floats:
    """Covariance of channels, as rsatoolbox estimates it.

    Parameters
    ----------
    residuals
        (observations, channels); their mean is removed.
    dof
        Degrees of freedom that the residuals have.
    noise
        The estimator of `Noise`.
    label
        Whose residuals they are, for messages.

    Raises
    ------
    NeurordlError
        Residuals that are not finite, or too few of them.
    """
    rows = np.asarray(residuals, dtype=np.float64)
    if rows.ndim != 2 or len(rows) < 2 or not 1 <= dof < np.inf or not np.isfinite(rows).all():
        raise NeurordlError(
            f"the noise of {label} cannot be estimated from {rows.shape} residuals with {dof:g} degrees of "
            "freedom: expected finite numbers, (observations, channels), with 1 degree or more"
        )
    rows = rows - rows.mean(axis=0)
    n = len(rows)
    if noise == "diagonal":
        return np.diag(np.einsum("ij,ij->j", rows, rows) / dof)
    products = rows.T @ rows
    if noise == "full":
        return np.asarray(products / dof)
    squares = (rows**2).T @ rows**2
    if noise == "shrinkage_eye":
        sample = products / n
        target = np.trace(sample) / len(sample) * np.eye(len(sample))
        spread = float(((sample - target) ** 2).sum())
        error = min(spread, float((squares / n - sample**2).sum()) / n)
        share = error / spread if spread > 0 else 1.0
        return np.asarray((share * target + (1 - share) * sample) * n / dof)
    sample = products / dof
    variance = np.diag(sample)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = products / np.sqrt(np.outer(variance, variance)) / (n - 1)
        of_squares = squares / np.outer(variance, variance) / (n - 1)
    off = ~np.eye(len(sample), dtype=bool) & np.isfinite(correlations)
    uncertain = n / dof**2 * (of_squares - correlations**2)[off].sum()
    total = (correlations[off] ** 2).sum()
    share = min(max(uncertain / total, 0.0), 1.0) if total > 0 else 1.0
    return np.asarray(sample * np.where(np.eye(len(sample), dtype=bool), 1.0, 1 - share))


def inverse(matrix: Floats, noise: Estimator, label: str) -> Floats:
    """Precision of a covariance, symmetric.

    Raises
    ------
    NeurordlError
        The covariance is singular: fewer residuals than channels, or channels that depend on others.
    """
    values, vectors = _decomposed(matrix, noise, label)
    return np.asarray((vectors / values) @ vectors.T)


def inverse_root(matrix: Floats, noise: Estimator, label: str) -> Floats:
    """Symmetric inverse square root of a covariance, which `inverse` would refuse in the same cases."""
    values, vectors = _decomposed(matrix, noise, label)
    return np.asarray((vectors / np.sqrt(values)) @ vectors.T)


def _decomposed(matrix: Floats, noise: Estimator, label: str) -> tuple[Floats, Floats]:
    values, vectors = np.linalg.eigh(matrix)
    floor = len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    if not values[0] > floor:
        rank = int((values > floor).sum())
        remedy = "drop channels without variance" if noise != "full" else "take noise='shrinkage_diag'"
        raise NeurordlError(
            f"the noise covariance of {label} is singular with noise={noise!r}: {len(values)} channels, rank "
            f"{rank}; {remedy}, or give more residuals"
        )
    return values, vectors
