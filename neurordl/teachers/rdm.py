"""Precomputed RDMs as a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from neurordl.arrays import Bools, Floats
from neurordl.errors import NeurordlError, notify
from neurordl.ids import Match, natural_key
from neurordl.io import sha256_array, sha256_json
from neurordl.measures.condensed import condensed_index, pair_number, unmeasured_stimuli
from neurordl.measures.dissimilarities import Dissimilarity, dissimilarity_from_text
from neurordl.rdms.selection import (
    averaged_subjects,
    check_one_per_subject,
    is_window,
    reindex,
    select_rdms,
    stimulus_ids,
    subject_names,
)
from neurordl.rsa.leaks import sketch
from neurordl.teachers.base import Batch, ById, Missing, Record, Target, Teacher, sent
from neurordl.validate import check_choice, check_number, listed

if TYPE_CHECKING:
    from rsatoolbox.rdm.rdms import RDMs

Pool = Literal["mean", "zscore", "subjects"]


class RDMTeacher(ById, Teacher):
    """Precomputed RDMs as a teacher: brain measurements, behavior, or a model.

    Parameters
    ----------
    rdms : rsatoolbox.rdm.RDMs
        RDMs, one for each subject, with the pattern descriptor ``stimulus`` and, if there are several, the
        RDM descriptor ``subject``. Use `select_rdms` to choose sessions or to average over them.
    roi : str, optional
        Use only RDMs of this ROI, the value of the RDM descriptor ``roi``.
    subjects : sequence of str, optional
        Use only RDMs of these subjects, the training subjects. By default all RDMs are used.
    select : mapping, optional
        Values of other RDM descriptors to use, as in `select_rdms`. RDMs in a window, such as
        ``{"time": (0.08, 0.12)}``, are averaged over it for each subject, with a notice of how many there
        are. For several windows on several layers, give each loss a teacher of its own.
    pool : {"mean", "zscore", "subjects"}
        How subjects are pooled. "mean": the target is the mean RDM over subjects. "zscore": each subject's
        RDM is z-scored before the mean is taken. "subjects": each subject's RDM is a target, and the loss is
        the mean of their losses.

        Standardizing gives all subjects the same influence, whatever the scale of their distances and
        whichever pairs they miss.
    pair_weights : None or "reliability"
        With "reliability", pairs on which subjects agree have more weight: the inverse of their variance over
        the subjects' z-scored RDMs. By default every measured pair has the same weight.

        The weights are normalized to mean 1. Z-scores and weights are estimated from pairs of training
        stimuli (those of `prepare`, which `fit` calls), and never from those of held-out stimuli.
    shrinkage : float
        Shrinkage of the variances behind reliability weights: 0 uses the variance of each pair, 1 the mean
        variance of all pairs.
    missing : {"error", "ignore"}
        "error": stimuli without RDMs raise an error. "ignore": they are left out.

    Raises
    ------
    NeurordlError
        If ids or subjects do not match, a subject has several RDMs, or an RDM is all NaN.

    Examples
    --------
    >>> import numpy as np
    >>> import neurordl as nrl
    >>> rdms = nrl.simulate.simulate_subjects(np.eye(4), list("abcd"), n_subjects=3)
    >>> teacher = nrl.RDMTeacher(rdms, subjects=["s01", "s02"])
    >>> teacher.match(["d", "a", "b"]).matched
    ('d', 'a', 'b')
    """

    def __init__(
        self,
        rdms: RDMs,
        *,
        roi: str | None = None,
        subjects: Sequence[str] | None = None,
        select: Mapping[str, Any] | None = None,
        pool: Pool = "mean",
        pair_weights: Literal["reliability"] | None = None,
        shrinkage: float = 0.5,
        missing: Missing = "error",
    ) -> None:
        self.select = dict(select or {})
        windows = [name for name, value in self.select.items() if is_window(rdms, name, value)]
        chosen = select_rdms(rdms, roi=roi, subjects=subjects, select=select)
        rdms = check_one_per_subject(select_rdms(chosen, average=windows) if windows else chosen)
        if windows:
            of_windows = ", ".join(
                f"{name} {self.select[name][0]:g} to {self.select[name][1]:g}" for name in windows
            )
            n_values = len(set(zip(*(chosen.rdm_descriptors[name] for name in windows), strict=True)))
            notify(f"RDMTeacher: the RDM of each subject is the mean of {n_values} RDMs ({of_windows})")
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
        self.rdm_sha256 = [sha256_array(vector) for vector in vectors]
        self.sha256 = sha256_json([self.ids, self.subjects, self.rdm_sha256])
        unseen = (set(unmeasured_stimuli(of_subject)) for of_subject in np.isfinite(vectors))
        self._unseen = dict(zip(self.subjects, unseen, strict=True))
        members = [averaged_subjects(rdms)[row] for row in order]
        named = list(zip(members, self.subjects, strict=True))
        self._people = [people or (name,) for people, name in named]
        titles = [f"the mean of {listed(people)}" if people else name for people, name in named]
        self._sketch = sketch(self.ids, vectors, titles)
        self._pooled = self._pool(vectors, np.ones(vectors.shape[1], dtype=bool))
        # what is estimated from all pairs is estimated again from those of the training stimuli
        self._vectors = vectors if pool == "zscore" or pair_weights is not None else None

    def _pool(self, vectors: Floats, training: Bools) -> Target:
        weights = np.isfinite(vectors).astype(np.float64)
        if self.shrinkage is not None:
            weights = weights * _reliability(vectors, training, self.shrinkage)
        arrays = (torch.from_numpy(array) for array in (vectors, weights, training))
        return pool_subjects(self.pool, *arrays)

    def prepare(self, ids: Sequence[str]) -> Match:
        """Match the training stimuli; only their pairs standardize RDMs and weigh pairs from now on."""
        match = self.match(ids)
        if self._vectors is not None:
            trained = np.zeros(len(self.ids), dtype=bool)
            trained[self.rows(match.matched)] = True
            i, j = np.triu_indices(len(self.ids), 1)
            self._pooled = self._pool(self._vectors, trained[i] & trained[j])
        return match

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
        return Target(sent(self._pooled.rdms.index_select(1, pairs), device), sent(weights, device))

    def groups(self, ids: Sequence[str]) -> list[list[str]]:
        """Ids that may share a batch: all that are known."""
        return [[stimulus for stimulus in ids if stimulus in self._row]]

    def describe(self) -> Record:
        """What ``run.json`` records of the teacher, with checksums of its RDMs."""
        chosen = {name: list(x) if isinstance(x, tuple) else x for name, x in self.select.items()}
        return {
            "teacher": "RDMTeacher",
            "subjects": list(self.subjects),
            "roi": self.roi,
            **({"select": chosen} if chosen else {}),
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

    def exposure(self) -> Record:
        """The subjects, also those within a mean, and a part of their RDMs."""
        people = dict.fromkeys(name for names in self._people for name in names)
        return {"subjects": list(people), "rdms": [self._sketch]}


def _standardize(vectors: Tensor, training: Tensor) -> Tensor:
    """Each RDM minus its mean, divided by its standard deviation over training pairs; a constant one is 0."""
    known = torch.where(training, vectors, torch.nan)
    mean = known.nanmean(1, keepdim=True)
    centered = vectors - mean
    spread = (known - mean).square().nanmean(1, keepdim=True).sqrt()
    constant = spread <= 1e-12 * mean.abs()
    return torch.where(constant, 0.0 * centered, centered / torch.where(constant, 1.0, spread))


def _reliability(vectors: Floats, training: Bools, shrinkage: float) -> Floats:
    """Inverse variance of each pair across subjects, shrunk towards the mean variance; mean 1."""
    check_number("shrinkage", shrinkage, 0, 1)
    if len(vectors) < 2:
        raise NeurordlError("pair_weights='reliability' needs at least two subjects, but there is one")
    standardized = _standardize(torch.from_numpy(vectors), torch.from_numpy(training))
    variance = pd.DataFrame(standardized.numpy()).var().to_numpy()  # NaN of a single subject
    if np.isnan(variance[training]).all():
        raise NeurordlError("pair_weights='reliability' needs pairs that at least two subjects have")
    mean = np.nanmean(variance[training])
    variance = np.where(np.isnan(variance), mean, (1 - shrinkage) * variance + shrinkage * mean)
    if not (variance[training] > 0).all():
        raise NeurordlError("pair_weights: a pair has no variance across subjects; use shrinkage > 0")
    weights = 1.0 / np.where(variance > 0, variance, mean)
    return np.asarray(weights / weights[training & np.isfinite(vectors).any(axis=0)].mean())


def pool_subjects(pool: str, vectors: Tensor, weights: Tensor, training: Tensor | None = None) -> Target:
    """One RDM for all subjects, or one for each, with the weight of each pair.

    Parameters
    ----------
    pool : {"mean", "zscore", "subjects"}
        How subjects are pooled, see `RDMTeacher`.
    vectors, weights : Tensor, (n_subjects, n_pairs)
        RDMs, NaN where a pair was not measured, and weights, 0 there.
    training : Tensor of bool, (n_pairs,), optional
        Pairs by which RDMs are standardized; by default all.

    Returns
    -------
    Target
        RDMs and weights, (1 or n_subjects, n_pairs), both 0 where no subject measured a pair. A pooled pair's
        weight is the mean weight over the subjects who measured it.
    """
    if check_choice("pool", pool, get_args(Pool)) != "subjects":
        weights = torch.where(vectors.isnan(), torch.nan, weights).nanmean(0, keepdim=True)
        if pool == "zscore":
            training = torch.ones_like(vectors[0], dtype=torch.bool) if training is None else training
            vectors = _standardize(vectors, training)
        vectors = vectors.nanmean(0, keepdim=True)
    return Target(vectors.nan_to_num().float(), weights.nan_to_num().float())
