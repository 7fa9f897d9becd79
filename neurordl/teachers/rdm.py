"""Precomputed RDMs as a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from rsatoolbox.rdm import RDMs
from torch import Tensor

from neurordl.errors import NeurordlError
from neurordl.ids import natural_key
from neurordl.io import sha256_array
from neurordl.measures.condensed import condensed_index, pair_number, unmeasured_stimuli
from neurordl.measures.dissimilarities import dissimilarity_from_text
from neurordl.rdms.selection import check_one_per_subject, reindex, select_rdms, stimulus_ids, subject_names
from neurordl.teachers.base import Batch, ById, Missing, Target

Pool = Literal["mean", "zscore", "subjects"]
Floats = npt.NDArray[np.float64]


class RDMTeacher(ById):
    """Precomputed RDMs as a teacher: brain measurements, behaviour, or a model.

    Parameters
    ----------
    rdms : rsatoolbox.rdm.RDMs
        With the pattern descriptor ``stimulus`` and, where there are several, the RDM descriptor ``subject``.
    roi : str, optional
        Keep the RDMs with this RDM descriptor ``roi``.
    subjects : sequence of str, optional
        Keep these subjects (the training subjects).
    select : mapping, optional
        Further RDM descriptors and the value to keep: ``{"session": 1}``.
    average : str or sequence of str, optional
        RDM descriptors to average over within each subject: ``"session"``.
    pool : {"mean", "zscore", "subjects"}
        One target RDM, the mean over subjects; the same with each subject's RDM standardised first, so that
        subjects with larger distances weigh no more and missing pairs do not shift the mean; or one
        target RDM for each subject, the loss being their mean.
    pair_weights : None or "reliability"
        Weigh pairs by the inverse of their variance across the subjects (RDMs standardised first; with
        ``pool="subjects"`` too), normalised to mean 1. None: every measured pair counts the same.
    shrinkage : float
        For reliability weights: 0 takes each pair's own variance, 1 the mean variance of all pairs.
    missing : {"error", "ignore"}
        What to do with stimuli that the RDMs do not have.

    Raises
    ------
    NeurordlError
        If ids or subjects do not match, a subject has several RDMs after selection, or an RDM is all NaN.
    """

    def __init__(
        self,
        rdms: RDMs,
        *,
        roi: str | None = None,
        subjects: Sequence[str] | None = None,
        select: Mapping[str, Any] | None = None,
        average: str | Sequence[str] | None = None,
        pool: Pool = "mean",
        pair_weights: Literal["reliability"] | None = None,
        shrinkage: float = 0.5,
        missing: Missing = "error",
    ) -> None:
        chosen = select_rdms(rdms, roi=roi, subjects=subjects, select=select, average=average)
        check_one_per_subject(chosen)
        super().__init__(stimulus_ids(chosen), missing, "RDMs")
        names = subject_names(chosen)
        order = sorted(range(len(names)), key=lambda place: natural_key(names[place]))
        self.subjects = tuple(names[place] for place in order)
        vectors = reindex(chosen, self.ids)[order]
        vectors[~np.isfinite(vectors)] = np.nan
        self.roi, self.pool, self.pair_weights = roi, pool, pair_weights
        self.shrinkage = shrinkage if pair_weights is not None else None
        self.dissimilarity = dissimilarity_from_text(chosen.dissimilarity_measure)
        self.transformed = pool == "zscore" or "rank" in str(chosen.dissimilarity_measure)
        self.sha256 = sha256_array(vectors)
        self.rdm_sha256 = [sha256_array(vector) for vector in vectors]
        measured = np.isfinite(vectors)
        self._lacked = {
            name: set(unmeasured_stimuli(there)) for name, there in zip(self.subjects, measured, strict=True)
        }
        weights = measured.astype(np.float64)
        if pair_weights == "reliability":
            weights = weights * _reliability(vectors, shrinkage)
        elif pair_weights is not None:
            raise NeurordlError(f"pair_weights={pair_weights!r}: expected None or 'reliability'")
        pooled, weights = pool_subjects(vectors, weights, pool)
        self._rdms = torch.from_numpy(np.nan_to_num(pooled, nan=0.0)).float()
        self._weights = torch.from_numpy(weights).float()

    def target(self, batch: Batch, features: Mapping[str, Tensor]) -> Target:
        """The RDMs of the ids of a batch; pairs that were not measured have weight 0."""
        rows = torch.from_numpy(self.rows(batch.ids))
        i, j = condensed_index(len(rows), rows.device)
        # index_select: brackets run on several threads, which costs far more than so few numbers.
        first, second = rows.index_select(0, i), rows.index_select(0, j)
        low, high = torch.minimum(first, second), torch.maximum(first, second)
        pairs = pair_number(low, high, len(self.ids))
        unknown = (low < 0) | (low == high)  # a stimulus that came twice makes no pair with itself
        pairs = pairs.masked_fill(unknown, 0)
        device = batch.images.device
        weights = self._weights.index_select(1, pairs).masked_fill(unknown, 0.0)
        return Target(self._rdms.index_select(1, pairs).to(device), weights.to(device))

    def _unseen(self) -> Mapping[str, Set[int]]:
        return self._lacked

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """All known ids may share a batch."""
        return [[stimulus for stimulus in ids if stimulus in self._row]]

    def describe(self) -> dict[str, Any]:
        """Kind, subjects, selection, share of measured pairs and checksum."""
        return {
            "teacher": "RDMTeacher",
            "subjects": list(self.subjects),
            "roi": self.roi,
            "pool": self.pool,
            "pair_weights": self.pair_weights,
            "shrinkage": self.shrinkage,
            "dissimilarity": self.dissimilarity and self.dissimilarity.name,
            "stimuli": len(self.ids),
            "measured_pairs": float((self._weights > 0).float().mean()),
            "control": self.control,
            "sha256": self.sha256,
            "rdm_sha256": self.rdm_sha256,  # so that they are known again under other names
        }


def _standardise(vectors: Floats) -> Floats:
    """Each RDM with mean 0 and standard deviation 1 over its measured pairs; a constant one becomes 0."""
    measured = np.isfinite(vectors)
    count = np.maximum(measured.sum(axis=1, keepdims=True), 1)
    mean = np.where(measured, vectors, 0.0).sum(axis=1, keepdims=True) / count
    centred = vectors - mean
    spread = np.sqrt(np.where(measured, centred**2, 0.0).sum(axis=1, keepdims=True) / count)
    constant = spread <= 1e-12 * np.abs(mean)
    return np.asarray(np.where(constant, 0.0 * centred, centred / np.where(constant, 1.0, spread)))


def _reliability(vectors: Floats, shrinkage: float) -> Floats:
    """Inverse variance of each pair across subjects, shrunken towards the mean variance; mean 1."""
    if len(vectors) < 2:
        raise NeurordlError("pair_weights='reliability' needs the RDMs of two subjects or more; this is one")
    if not 0.0 <= shrinkage <= 1.0:
        raise NeurordlError(f"shrinkage={shrinkage}: expected a number from 0 to 1")
    measured = np.isfinite(vectors).sum(axis=0)
    spread = np.full(vectors.shape[1], np.nan)
    several = measured > 1
    if not several.any():
        raise NeurordlError("pair_weights='reliability' needs pairs that two subjects or more measured")
    spread[several] = np.nanvar(_standardise(vectors)[:, several], axis=0, ddof=1)
    mean = np.nanmean(spread)
    spread = np.where(np.isnan(spread), mean, (1 - shrinkage) * spread + shrinkage * mean)
    if not (spread > 0).all():
        raise NeurordlError(
            "reliability weights are not defined: a pair has no variance across subjects; use shrinkage > 0"
        )
    weights = 1.0 / spread
    return np.asarray(weights / weights[measured > 0].mean())


def pool_subjects(vectors: Floats, weights: Floats, pool: str) -> tuple[Floats, Floats]:
    """One RDM for all subjects, or all of them, with the weight of each pair.

    Parameters
    ----------
    vectors, weights : array, (n_subjects, n_pairs)
        NaN where a pair was not measured; there the weight is 0.
    pool : {"mean", "zscore", "subjects"}

    Returns
    -------
    rdms, weights : array, (1 or n_subjects, n_pairs)
        A pooled pair's weight is the mean of the subjects' weights over those who measured it.
    """
    if pool not in get_args(Pool):
        raise NeurordlError(f"pool={pool!r}: expected one of {', '.join(get_args(Pool))}")
    if pool == "subjects":
        return vectors, weights
    if pool == "zscore":
        vectors = _standardise(vectors)
    measured = np.isfinite(vectors)
    count = np.maximum(measured.sum(axis=0, keepdims=True), 1)
    mean = np.where(measured, vectors, 0.0).sum(axis=0, keepdims=True) / count
    return mean, np.where(measured, weights, 0.0).sum(axis=0, keepdims=True) / count
