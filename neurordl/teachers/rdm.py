"""Precomputed RDMs as a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from rsatoolbox.rdm import RDMs
from torch import Tensor

from neurordl.arrays import Floats, nan_mean
from neurordl.errors import NeurordlError
from neurordl.ids import natural_key
from neurordl.io import sha256_array
from neurordl.measures.condensed import condensed_index, pair_number, unmeasured_stimuli
from neurordl.measures.dissimilarities import Dissimilarity, dissimilarity_from_text
from neurordl.rdms.selection import check_one_per_subject, reindex, select_rdms, stimulus_ids, subject_names
from neurordl.teachers.base import Batch, ById, Missing, Record, Target, Teacher
from neurordl.validate import check_choice, check_number

Pool = Literal["mean", "zscore", "subjects"]


class RDMTeacher(ById, Teacher):
    """Precomputed RDMs as a teacher: brain measurements, behavior, or a model.

    Parameters
    ----------
    rdms : rsatoolbox.rdm.RDMs
        RDMs, one for each subject, with the pattern descriptor ``stimulus`` and, if there are several, the
        RDM descriptor ``subject``. Use `select_rdms` to choose sessions or to average over them.
    roi : str, optional
        Keep the RDMs of this ROI: those with this RDM descriptor ``roi``.
    subjects : sequence of str, optional
        Keep the RDMs of these subjects, the training subjects. By default all are kept.
    pool : {"mean", "zscore", "subjects"}
        How subjects are pooled: "mean" (one target RDM, the mean over subjects), "zscore" (the same of
        standardized RDMs) or "subjects" (one target RDM for each subject, with the mean of their losses).

        Where RDMs are standardized, subjects with larger distances weigh no more and missing pairs do not
        shift the mean.
    pair_weights : None or "reliability"
        "reliability" weighs pairs by the inverse of their variance across subjects, of standardized RDMs. By
        default every measured pair counts the same.

        The weights are normalized to mean 1.
    shrinkage : float
        For reliability weights: 0 takes the variance of each pair, 1 the mean variance of all pairs.
    missing : {"error", "ignore"}
        Stimuli that the RDMs do not have are an "error", or "ignore" leaves them out.

    Raises
    ------
    NeurordlError
        If ids or subjects do not match, a subject has several RDMs, or an RDM is all NaN.
    """

    def __init__(
        self,
        rdms: RDMs,
        *,
        roi: str | None = None,
        subjects: Sequence[str] | None = None,
        pool: Pool = "mean",
        pair_weights: Literal["reliability"] | None = None,
        shrinkage: float = 0.5,
        missing: Missing = "error",
    ) -> None:
        rdms = check_one_per_subject(select_rdms(rdms, roi=roi, subjects=subjects))
        super().__init__(stimulus_ids(rdms), missing, "RDMs")
        names = subject_names(rdms)
        order = sorted(range(len(names)), key=lambda row: natural_key(names[row]))
        self.subjects = tuple(names[row] for row in order)
        vectors = reindex(rdms, self.ids)[order]
        vectors[~np.isfinite(vectors)] = np.nan
        self.roi, self.pool = roi, pool
        self.pair_weights = check_choice("pair_weights", pair_weights, (None, "reliability"))
        self.shrinkage = shrinkage if pair_weights is not None else None
        self.dissimilarity: Dissimilarity | None = dissimilarity_from_text(rdms.dissimilarity_measure)
        self.transformed = pool == "zscore" or "rank" in str(rdms.dissimilarity_measure)
        self.sha256 = sha256_array(vectors)
        self.rdm_sha256 = [sha256_array(vector) for vector in vectors]
        measured = np.isfinite(vectors)
        unseen = (set(unmeasured_stimuli(of_subject)) for of_subject in measured)
        self._unseen = dict(zip(self.subjects, unseen, strict=True))
        weights = measured.astype(np.float64)
        if pair_weights is not None:
            weights = weights * _reliability(vectors, shrinkage)
        self._pooled = pool_subjects(vectors, weights, pool)

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
        weights = self._pooled.weights.index_select(1, pairs).masked_fill(unknown, 0.0)
        return Target(self._pooled.rdms.index_select(1, pairs).to(device), weights.to(device))

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """Ids that may share a batch: all that are known."""
        return [[stimulus for stimulus in ids if stimulus in self._row]]

    def describe(self) -> Record:
        """What ``run.json`` records of the teacher, with checksums of its RDMs."""
        return {
            "teacher": "RDMTeacher",
            "subjects": list(self.subjects),
            "roi": self.roi,
            "pool": self.pool,
            "pair_weights": self.pair_weights,
            "shrinkage": self.shrinkage,
            "dissimilarity": self.dissimilarity and self.dissimilarity.name,
            "stimuli": len(self.ids),
            "measured_pairs": float((self._pooled.weights > 0).float().mean()),
            "control": self.control,
            "sha256": self.sha256,
            "rdm_sha256": self.rdm_sha256,  # by which RDMs are recognized if subjects are renamed
        }


def _standardize(vectors: Floats) -> Floats:
    """Each RDM with mean 0 and standard deviation 1 over its measured pairs; a constant one becomes 0."""
    mean = nan_mean(vectors, axis=1)[:, None]
    centered = vectors - mean
    spread = np.sqrt(nan_mean(centered**2, axis=1))[:, None]
    constant = spread <= 1e-12 * np.abs(mean)
    return np.asarray(np.where(constant, 0.0 * centered, centered / np.where(constant, 1.0, spread)))


def _reliability(vectors: Floats, shrinkage: float) -> Floats:
    """Inverse variance of each pair across subjects, shrunk towards the mean variance; mean 1."""
    check_number("shrinkage", shrinkage, 0, 1)
    if len(vectors) < 2:
        raise NeurordlError("pair_weights='reliability' needs the RDMs of two subjects or more; this is one")
    variance = pd.DataFrame(_standardize(vectors)).var().to_numpy()  # NaN for pairs of a single subject
    if np.isnan(variance).all():
        raise NeurordlError("pair_weights='reliability' needs pairs that two subjects or more measured")
    mean = np.nanmean(variance)
    variance = np.where(np.isnan(variance), mean, (1 - shrinkage) * variance + shrinkage * mean)
    if not (variance > 0).all():
        raise NeurordlError("pair_weights: a pair has no variance across subjects; use shrinkage > 0")
    weights = 1.0 / variance
    return np.asarray(weights / weights[np.isfinite(vectors).any(axis=0)].mean())


def pool_subjects(vectors: Floats, weights: Floats, pool: str) -> Target:
    """One RDM for all subjects, or one for each, with the weight of each pair.

    Parameters
    ----------
    vectors, weights : array, (n_subjects, n_pairs)
        RDMs, NaN where a pair was not measured, and weights, 0 there.
    pool : {"mean", "zscore", "subjects"}
        How subjects are pooled, see `RDMTeacher`.

    Returns
    -------
    Target
        RDMs and weights, (1 or n_subjects, n_pairs), both 0 where no subject measured a pair. A pooled pair's
        weight is the mean weight over the subjects who measured it.
    """
    if check_choice("pool", pool, get_args(Pool)) != "subjects":
        weights = nan_mean(np.where(np.isfinite(vectors), weights, np.nan), axis=0)[None]
        vectors = nan_mean(_standardize(vectors) if pool == "zscore" else vectors, axis=0)[None]
    return Target(*(torch.from_numpy(np.nan_to_num(values)).float() for values in (vectors, weights)))
